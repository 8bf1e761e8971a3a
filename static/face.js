// A face to edit: where it comes from, and what is known of it.

import * as api from "./api.js";
import { bitmap, enlarged } from "./picture.js";

export async function crop(move, signal) {
  return createImageBitmap(await api.render(move, { output: "crop", signal }));
}

// What the service says of a source, { file, align } or { seed, temperature }; and its crop.
export async function begun({ file, align = "auto", ...draw }, signal, onSent) {
  const said = await (file ? api.encode(file, align, signal, onSent) : api.sample(draw, signal));
  const latent = said.latent_id;
  return { ...said, latent, plain: await orForget(latent, crop(api.moveOf(latent, {}), signal)) };
}

const orForget = (latent, picture) =>
  picture.catch((problem) => { forget(latent); throw problem; });

export async function faceOf(source, signal, onSent) {
  const { file, seed } = source;
  const local = file && bitmap(file).catch(() => null);
  const said = await begun(source, signal, onSent);
  const { latent, plain } = said;
  // A format that this browser cannot read comes back from the service.
  const shown = file
    ? (await local) ?? (await orForget(latent, api.render(api.moveOf(latent, {}), { output: "photo", signal }).then(bitmap)))
    : { image: enlarged(plain), width: plain.width, height: plain.height };
  return {
    source,
    latent,
    plain,
    ...shown,
    generated: !file,
    box: said.face?.box ?? { x: 0, y: 0, size: plain.width },
    angle: said.face?.angle ?? 0,
    others: said.others ?? [],
    readings: said.readings,
    bits: said.bits_per_dim,
    ends: Date.now() + said.expires_in * 1000,
    name: file ? (file.name || "photograph").replace(/\.[^.]*$/, "") : `face-${seed}`,
  };
}

// Nobody waits for it; its time ends anyway.
export function forget(latent) {
  void api.forget(latent).catch(() => {});
}
