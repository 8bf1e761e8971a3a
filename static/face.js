// A face to edit: where it comes from, and what is known of it.

import * as api from "./api.js";
import { bitmap, enlarged } from "./picture.js";

// A source is { file, align } or { seed, temperature }.
export const latentOf = ({ file, align = "auto", ...draw }, signal, onSent) =>
  file ? api.encode(file, align, signal, onSent) : api.sample(draw, signal);

export async function crop(move, signal) {
  return createImageBitmap(await api.render(move, { output: "crop", signal }));
}

export async function faceOf(source, signal, onSent) {
  const { file, seed } = source;
  const local = file && bitmap(file).catch(() => null);
  const said = await latentOf(source, signal, onSent);
  const latent = said.latent_id;
  if (signal.aborted) forget(latent);
  const still = api.moveOf(latent, {});
  const plain = await crop(still, signal);
  // A format that the service can read and this browser cannot comes back from the service.
  const shown = file
    ? (await local) ?? (await bitmap(await api.render(still, { output: "photo", signal })))
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

// Nobody waits for it, and its time ends anyway.
export function forget(latent) {
  void api.forget(latent).catch(() => {});
}
