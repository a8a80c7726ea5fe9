// Sends messages of every kind by the package ws, and prints what came back. Arguments: URL.
const WebSocket = require("ws");
const { createHash, randomBytes } = require("node:crypto");

const digest = data => createHash("sha256").update(data).digest("hex");
const socket = new WebSocket(process.argv[2]);
const sent = [Buffer.from("text"), randomBytes(0), randomBytes(70000), randomBytes(4 << 20)];
const received = [];

socket.on("open", () => {
    sent.forEach((data, at) => socket.send(at ? data : data.toString()));
    socket.ping("are you there");
});
socket.on("pong", data => { received.pong = data.toString(); });
socket.on("message", data => {
    received.push(data);
    if (received.length === sent.length) socket.close(4000, "done");
});
socket.on("error", error => { console.log(JSON.stringify({ error: String(error) })); process.exit(1); });
socket.on("close", (code, reason) => console.log(JSON.stringify({
    code,
    reason: reason.toString(),
    pong: received.pong,
    extensions: socket.extensions,
    same: received.every((data, at) => digest(data) === digest(sent[at])),
    count: received.length,
})));
