// Numbers and moments as people read them. Pure but for the clock, which is the gateway's: `now` follows its answers.

let ahead = 0;

/** Take over the gateway's clock; a machine whose own is wrong then still shows right ages. */
export function setClock(serverTime) {
  const difference = serverTime - Date.now();
  ahead = Math.abs(difference) < 3000 ? 0 : difference; // the date in an answer has no fractions of a second
}

export function now() {
  return Date.now() + ahead;
}

const STEPS = ["B", "kB", "MB", "GB", "TB", "PB"];

/** Decimal bytes, as Ollama shows them. */
export function bytes(count) {
  let value = Math.max(0, count);
  let step = 0;
  while (value >= 999.5 && step < STEPS.length - 1) {
    value /= 1000;
    step += 1;
  }
  return `${step === 0 || value >= 99.5 ? Math.round(value) : value.toFixed(1)} ${STEPS[step]}`;
}

/** `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`. */
export function lasted(milliseconds) {
  const seconds = Math.max(0, milliseconds / 1000);
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  const minutes = Math.floor(Math.round(seconds) / 60);
  const hours = Math.floor(minutes / 60);
  if (hours >= 24) return `${Math.floor(hours / 24)} d ${hours % 24} h`;
  return hours ? `${hours} h ${minutes % 60} min` : `${minutes} min ${Math.round(seconds) % 60} s`;
}

/** The larger part of a span: `12 s`, `3 min`, `2 h`, `3 d`. */
export function roughly(milliseconds) {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h`;
  return `${Math.floor(seconds / 86400)} d`;
}

export function ago(moment) {
  const past = now() - moment;
  return past < 5000 ? "just now" : `${roughly(past)} ago`;
}

export function until(moment) {
  const left = moment - now();
  if (left <= 0) return "due now";
  const isClose = left >= 3600000 && left < 6 * 3600000; // then the minutes matter still
  return `in ${isClose ? lasted(left).replace(/ 0 min$/, "") : roughly(left)}`;
}

export function dollars(amount) {
  return `$${amount >= 100 ? Math.round(amount).toLocaleString("en") : amount.toFixed(2)}`;
}

export function count(number, one, many = `${one}s`) {
  return `${number.toLocaleString("en")} ${number === 1 ? one : many}`;
}

/** A day like `2026-09-15` as `15 Sep`. */
export function day(text) {
  return new Date(`${text}T00:00:00Z`).toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
}

/** `Tue 03:00`, on the reader's clock. */
export function clock(moment) {
  return moment.toLocaleString("en-GB", { weekday: "short", hour: "2-digit", minute: "2-digit" });
}

/** `27 Feb 2027, 09:41`, on the reader's clock: for what may be months away. */
export function date(moment) {
  const options = { day: "numeric", month: "short", year: "numeric", hour: "2-digit", minute: "2-digit" };
  return moment.toLocaleString("en-GB", options);
}

/** How people write a model's name: without the registry and folder that are meant anyway. */
export function short(model) {
  return model.replace(/^registry\.ollama\.ai\//, "").replace(/^library\//, "");
}
