// A photograph from the camera.

import { $ } from "./dom.js";

// The file; null where it is called off. Rejects where there is no camera, or none allowed.
export async function photographed() {
  const [dialog, film] = [$("camera"), $("film")];
  const wish = { video: { facingMode: "user", width: { ideal: 1280 } } };
  const stream = await navigator.mediaDevices.getUserMedia(wish);
  film.srcObject = stream;
  dialog.showModal();
  const used = await new Promise((resolve) => {
    $("shoot").onclick = () => dialog.close("use");
    dialog.onclose = () => resolve(dialog.returnValue === "use");
  });
  dialog.returnValue = "";
  const canvas = new OffscreenCanvas(film.videoWidth || 1, film.videoHeight || 1);
  canvas.getContext("2d").drawImage(film, 0, 0);
  for (const track of stream.getTracks()) track.stop();
  film.srcObject = null;
  if (!used) return null;
  return new File([await canvas.convertToBlob({ type: "image/jpeg", quality: 0.95 })], "camera.jpg", { type: "image/jpeg" });
}
