// Settings as a link, which restores them: the strengths and, of a generated face, how it was drawn.

const SEED = "face.seed"; // no attribute's name holds a dot
const TEMPERATURE = "face.temperature";

export function linkOf(strengths, source) {
  const said = new URLSearchParams();
  if (source?.seed !== undefined) {
    said.set(SEED, source.seed);
    said.set(TEMPERATURE, source.temperature);
  }
  for (const [name, strength] of Object.entries(strengths)) {
    if (!name.includes(" ")) said.set(name, Number(strength.toFixed(4)));
  }
  const link = new URL(location.href);
  link.hash = said;
  return link.href;
}

// { strengths, source } of a link or its part after #; null where it says nothing.
export function readLink(text) {
  const said = new URLSearchParams(text.trim().split("#")[1] ?? "");
  const numbers = [...said].map(([name, value]) => [name, Number(value)]);
  if (!numbers.length || numbers.some(([, value]) => !Number.isFinite(value))) return null;
  const { [SEED]: seed, [TEMPERATURE]: temperature = 0.7, ...strengths } = Object.fromEntries(numbers);
  return { strengths, source: seed === undefined ? null : { seed, temperature } };
}
