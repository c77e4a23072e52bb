// OpenAI's client for JavaScript.

import OpenAI, { toFile } from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { asksForWeather, embedder, getWeather, hello, key, model, sure, trial, url } from "./trials.mjs";

const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: key, maxRetries: 0 });
const City = z.object({ name: z.string(), people: z.number() });

await trial("models", async () => {
  sure((await client.models.list()).data.some((each) => each.id === model), "the model is listed");
});
await trial("chat", async () => {
  sure((await client.chat.completions.create({ model, messages: hello })).choices[0].message.content, "content");
});
await trial("chat streamed", async () => {
  let pieces = 0;
  for await (const chunk of await client.chat.completions.create({ model, messages: hello, stream: true })) pieces += chunk.choices.length;
  sure(pieces > 1, "pieces");
});
await trial("tools", async () => {
  const { choices } = await client.chat.completions.create({ model, messages: asksForWeather, tools: [getWeather] });
  sure(choices[0].message.tool_calls[0].function.name === "get_weather", "a call");
});
await trial("parsed", async () => {
  const format = zodResponseFormat(City, "city");
  const said = await client.chat.completions.parse({ model, messages: hello, response_format: format });
  sure(typeof said.choices[0].message.parsed.people === "number", "people");
});
await trial("embeddings", async () => {
  sure((await client.embeddings.create({ model: embedder, input: ["one", "two"] })).data.length === 2, "two vectors");
});
await trial("responses", async () => {
  sure((await client.responses.create({ model, input: "Hello" })).output_text, "a text");
});
await trial("responses streamed", async () => {
  let last = null;
  for await (const event of await client.responses.create({ model, input: "Hello", stream: true })) last = event.type;
  sure(last === "response.completed", "the end");
});
await trial("batch", async () => {
  const body = { model, messages: hello };
  const lines = [0, 1, 2].map((n) => JSON.stringify({ custom_id: `${n}`, method: "POST", url: "/v1/chat/completions", body }));
  const file = await client.files.create({ file: await toFile(Buffer.from(lines.join("\n")), "lines.jsonl"), purpose: "batch" });
  sure((await client.files.waitForProcessing(file.id)).status === "processed", "processed");
  let made = await client.batches.create({ input_file_id: file.id, endpoint: "/v1/chat/completions", completion_window: "24h" });
  while (["validating", "in_progress", "finalizing"].includes(made.status)) {
    await new Promise((done) => setTimeout(done, 500));
    made = await client.batches.retrieve(made.id);
  }
  sure(made.status === "completed" && made.request_counts.completed === 3, "completed");
  const answers = (await (await client.files.content(made.output_file_id)).text()).trim().split("\n").map((line) => JSON.parse(line));
  sure(answers.map((each) => each.custom_id).join() === "0,1,2", "each line once");
  sure(answers.every((each) => each.response.body.choices[0].message.content), "contents");
  const listed = [];
  for await (const each of client.batches.list({ limit: 1 })) listed.push(each.id);
  sure(listed.includes(made.id), "listed");
  sure((await client.batches.cancel(made.id)).status === "completed", "it has ended");
  sure((await client.files.delete(file.id)).deleted, "deleted");
});
