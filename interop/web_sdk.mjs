// HeyGen's client for browsers, in Node: its session client, without the room.
//     WEB_SDK=.../index.esm.js API_URL=http://127.0.0.1:8080 node web_sdk.mjs start,keepAlive,stop TOKEN...
// Prints one JSON object per token: what the SDK reads from the token, and what each call came to.

globalThis.RTCPeerConnection ??= class {
  addTransceiver() {}
};
console.warn = () => {};

const { LiveAvatarSession } = await import(process.env.WEB_SDK);
const [steps, ...tokens] = process.argv.slice(2);
const calls = { start: "startSession", keepAlive: "keepAlive", stop: "stopSession" };

for (const token of tokens) {
  const session = new LiveAvatarSession(token, { apiUrl: process.env.API_URL });
  const results = {};
  for (const step of steps.split(",").filter(Boolean)) {
    try {
      results[step] = { data: await session.sessionClient[calls[step]]() };
    } catch (error) {
      results[step] = { status: error.status, code: error.errorCode, message: error.message };
    }
  }
  console.log(JSON.stringify({ mode: session.mode, agentType: session.agentType, ...results }));
}
process.exit(0);
