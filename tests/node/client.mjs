// node client.mjs URL SCENARIO: does one thing with the official client and prints what came of it as JSON.
import OpenAI from "openai";

const [url, scenario] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "unused", maxRetries: 0 });
const messages = [{ role: "user", content: "Hello there" }];

const scenarios = {
  async stream() {
    const request = { model: "honed", messages, max_tokens: 24, seed: 7 };
    const whole = await client.chat.completions.create(request);
    const stream = await client.chat.completions.create({
      ...request,
      stream: true,
      stream_options: { include_usage: true },
    });
    const deltas = [];
    let finish_reason = null;
    let usage = null;
    for await (const chunk of stream) {
      usage = chunk.usage ?? usage;
      const choice = chunk.choices[0];
      if (choice?.delta.content) deltas.push(choice.delta.content);
      finish_reason = choice?.finish_reason ?? finish_reason;
    }
    return { deltas, finish_reason, usage, whole };
  },

  async models() {
    const ids = [];
    for await (const model of client.models.list()) ids.push(model.id);
    return { ids, retrieved: await client.models.retrieve("honed") };
  },

  async missing() {
    try {
      await client.chat.completions.create({ model: "nobody", messages });
    } catch (error) {
      const { status, code, param, type, requestID } = error;
      return { is_not_found: error instanceof OpenAI.NotFoundError, status, code, param, type, requestID };
    }
    return {};
  },

  async abort() {
    const request = { model: "honed", messages, max_tokens: 450, n: 32, stream: true, ignore_eos: true };
    const stream = await client.chat.completions.create(request);
    let chunks = 0;
    for await (const _ of stream) {
      chunks += 1;
      if (chunks === 3) stream.controller.abort();
    }
    return { chunks };
  },
};

console.log(JSON.stringify(await scenarios[scenario]()));
