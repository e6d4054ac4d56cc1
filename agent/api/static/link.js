// Link: asks the agent, with the API key where one is needed, and keeps one stream of snapshots open.

const RETRY_MS = 2000;
let key = sessionStorage.getItem("qeil-key");

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function useKey(text) {
  key = text;
  sessionStorage.setItem("qeil-key", text);
}

export async function ask(path, options = {}) {
  const headers = { ...(options.headers ?? {}), ...(key ? { "X-API-Key": key } : {}) };
  const answer = await fetch(path, { ...options, headers });
  if (!answer.ok) {
    const body = await answer.json().catch(() => ({}));
    throw new Refused(answer.status, body.error ?? `HTTP ${answer.status}`);
  }
  return answer;
}

export const json = async (path, options) => (await ask(path, options)).json();

/** Snapshots for ever: after a break it connects again. EventSource cannot send a key, so the stream is read here. */
export async function follow(onSnapshot, onState) {
  for (;;) {
    let why = "reconnecting…";
    try {
      const answer = await ask("events");
      onState("live");
      await read(answer.body.pipeThrough(new TextDecoderStream()).getReader(), onSnapshot);
    } catch (error) {
      why = error instanceof Refused ? error : "agent unreachable";
    }
    onState(why);
    await new Promise((resolve) => { setTimeout(resolve, RETRY_MS); });
  }
}

async function read(reader, onSnapshot) {
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const data = block.split("\n").find((line) => line.startsWith("data: "));
      if (data) onSnapshot(JSON.parse(data.slice(6)));
    }
  }
}
