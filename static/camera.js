// A photograph from the camera.

import { $, answered } from "./dom.js";

// The file; null where it is called off. Rejects where there is no camera, or none allowed.
export async function photographed() {
  const film = $("film");
  const wish = { video: { facingMode: "user", width: { ideal: 1280 } } };
  const stream = await navigator.mediaDevices.getUserMedia(wish);
  film.srcObject = stream;
  const used = await answered($("camera"));
  const canvas = new OffscreenCanvas(film.videoWidth || 1, film.videoHeight || 1);
  canvas.getContext("2d").drawImage(film, 0, 0);
  for (const track of stream.getTracks()) track.stop();
  film.srcObject = null;
  if (!used) return null;
  const type = "image/jpeg";
  return new File([await canvas.convertToBlob({ type, quality: 0.95 })], "camera.jpg", { type });
}
