// What the programs of JavaScript's clients share: a trial is run where it stands and told as a line of JSON.

export const { URL: url, MODEL: model, THINKER: thinker, EMBEDDER: embedder, SMALL: small } = process.env;
export const key = process.env.KEY || "none";
export const hello = [{ role: "user", content: "Hello" }];
export const asksForWeather = [{ role: "user", content: "What is the weather in Paris? Call get_weather." }];
export const getWeather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "The weather in a city",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};

export async function trial(tried, run) {
  let failed = null;
  try {
    await run();
  } catch (error) {
    failed = `${error.name}: ${String(error.message).split(/\s+/).join(" ")}`.slice(0, 300);
  }
  console.log(`{"tried": ${JSON.stringify(tried)}, "failed": ${JSON.stringify(failed)}}`);
}

export function sure(holds, what) {
  if (!holds) throw new Error(`not so: ${what}`);
}
