// Edits over a WebSocket: every move of a hand is sent, the service answers the newest.

import { keyProtocols } from "./key.js";

const PATIENCE = 8_000; // ms; past it the connection is given up, and asking goes another way
const PAUSE = 5_000; // ms before it is tried anew

export class Live {
  #socket = null;
  #closed = -PAUSE;
  #asked = 0; // the number of the newest move
  #least = 1; // of the answers that are still of use
  #watch = 0;
  #on;

  // `onPicture` takes a bitmap of the crop and whether it is the newest; `onProblem` a problem;
  // `onLost` is told of a move that will get no answer.
  constructor(on) {
    this.#on = on;
  }

  // Whether the move was sent; if not, ask another way.
  ask(move) {
    this.open();
    if (this.#socket?.readyState !== WebSocket.OPEN) return false;
    this.#socket.send(JSON.stringify({ ...move, output: "crop", seq: ++this.#asked }));
    this.#watch ||= setTimeout(() => this.close(), PATIENCE);
    return true;
  }

  #heard() {
    clearTimeout(this.#watch);
    this.#watch = 0;
  }

  // What is on its way is not wanted any more.
  drop() {
    this.#heard();
    this.#least = this.#asked + 1;
  }

  open() {
    if (this.#socket || performance.now() - this.#closed < PAUSE) return;
    const address = new URL("api/v1/live?format=png", document.baseURI);
    address.protocol = address.protocol.replace("http", "ws");
    const socket = (this.#socket = new WebSocket(address, keyProtocols()));
    socket.binaryType = "arraybuffer";
    socket.onmessage = ({ data }) => this.#answer(data);
    socket.onclose = () => {
      if (socket === this.#socket) this.close();
    };
  }

  // Anew, as who asks is settled when it is opened.
  renew() {
    this.close();
    this.#closed = -PAUSE;
    this.open();
  }

  close() {
    const [socket, lost] = [this.#socket, this.#least <= this.#asked];
    this.#socket = null;
    this.#closed = performance.now();
    this.drop();
    socket?.close();
    if (lost) this.#on.onLost();
  }

  async #answer(data) {
    this.#heard();
    if (typeof data === "string") {
      const problem = JSON.parse(data);
      if (problem.seq !== this.#asked || problem.seq < this.#least) return;
      this.drop();
      this.#on.onProblem(problem);
      return;
    }
    const seq = new DataView(data).getUint32(0);
    if (seq < this.#asked) this.#watch = setTimeout(() => this.close(), PATIENCE);
    const image = await createImageBitmap(new Blob([new Uint8Array(data, 4)]));
    if (seq < this.#least) return;
    this.#least = seq + 1;
    this.#on.onPicture(image, seq === this.#asked);
  }
}
