// The Vercel AI SDK, by its provider for Ollama and by the one for services like OpenAI's.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embedMany, generateText, Output, streamText, tool } from "ai";
import { createOllama } from "ollama-ai-provider-v2";
import { z } from "zod";
import { embedder, key, model, sure, trial, url } from "./trials.mjs";

const headers = { Authorization: `Bearer ${key}` };
const ways = {
  ollama: createOllama({ baseURL: `${url}/api`, headers }),
  compatible: createOpenAICompatible({ name: "here", baseURL: `${url}/v1`, apiKey: key, supportsStructuredOutputs: true }),
};
const City = z.object({ name: z.string(), people: z.number() });
const weather = tool({
  description: "The weather in a city",
  inputSchema: z.object({ city: z.string() }),
  execute: async () => "sunny",
});

for (const [name, way] of Object.entries(ways)) {
  const languageModel = way(model);
  await trial(`${name}: text`, async () => {
    sure((await generateText({ model: languageModel, prompt: "Hello", maxRetries: 0 })).text, "a text");
  });
  await trial(`${name}: streamed`, async () => {
    let pieces = 0;
    for await (const piece of streamText({ model: languageModel, prompt: "Hello", maxRetries: 0 }).textStream) pieces += piece ? 1 : 0;
    sure(pieces > 1, "pieces");
  });
  await trial(`${name}: schema`, async () => {
    const said = await generateText({
      model: languageModel,
      prompt: "Hello",
      output: Output.object({ schema: City }),
      maxRetries: 0,
    });
    sure(typeof said.output.people === "number", "people");
  });
  await trial(`${name}: tools`, async () => {
    const said = await generateText({
      model: languageModel,
      prompt: "What is the weather? Call get_weather.",
      tools: { get_weather: weather },
      maxRetries: 0,
    });
    sure(said.toolCalls[0].toolName === "get_weather", "a call");
  });
  await trial(`${name}: embed`, async () => {
    const embedding = way.textEmbeddingModel ? way.textEmbeddingModel(embedder) : way.embeddingModel(embedder);
    sure((await embedMany({ model: embedding, values: ["one", "two"], maxRetries: 0 })).embeddings.length === 2, "two vectors");
  });
}
