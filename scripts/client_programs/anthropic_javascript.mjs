// Anthropic's client for JavaScript.

import Anthropic from "@anthropic-ai/sdk";
import { hello, key, model, sure, trial, url } from "./trials.mjs";

const client = new Anthropic({ baseURL: url, apiKey: key, maxRetries: 0 });
const params = { model, max_tokens: 200, messages: hello };

await trial("messages", async () => {
  sure((await client.messages.create(params)).content[0].text, "a text");
});
await trial("streamed", async () => {
  sure((await client.messages.stream(params).finalMessage()).usage.output_tokens, "tokens");
});
await trial("batch", async () => {
  const { batches } = client.messages;
  let made = await batches.create({ requests: [0, 1, 2].map((n) => ({ custom_id: `${n}`, params })) });
  sure(made.request_counts.processing === 3, "three are processing");
  while (made.processing_status !== "ended") {
    await new Promise((done) => setTimeout(done, 500));
    made = await batches.retrieve(made.id);
  }
  sure(made.request_counts.succeeded === 3, "three succeeded");
  const results = [];
  for await (const each of await batches.results(made.id)) results.push(each);
  sure(results.map((each) => each.custom_id).join() === "0,1,2", "each once");
  sure(results.every((each) => each.result.message.content[0].text), "texts");
  const listed = [];
  for await (const each of batches.list({ limit: 1 })) listed.push(each.id);
  sure(listed.includes(made.id), "listed");
  sure((await batches.cancel(made.id)).processing_status === "ended", "it has ended");
  sure((await batches.delete(made.id)).type === "message_batch_deleted", "deleted");
});
