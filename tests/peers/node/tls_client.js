// https and wss by Node and the package ws. Arguments: file of the CA, host:port, version (TLSv1.2), bytes to send.
// Prints what it found.
const https = require("node:https");
const { readFileSync } = require("node:fs");
const { createHash, randomBytes } = require("node:crypto");
const WebSocket = require("ws");

const [file, address, version, size] = process.argv.slice(2);
const tls = { ca: readFileSync(file), minVersion: version, maxVersion: version, ALPNProtocols: ["http/1.1"] };
const digest = data => createHash("sha256").update(data).digest("hex");
const agent = new https.Agent({ ...tls, keepAlive: false });

const upload = () => new Promise((resolve, reject) => {
    const body = randomBytes(Number(size));
    const options = { method: "POST", agent, headers: { "Content-Length": body.length } };
    const request = https.request(`https://${address}/a/upload`, options, answer => {
        const pieces = [];
        const { socket } = answer;
        const resumed = socket.isSessionReused();
        answer.on("data", piece => pieces.push(piece));
        answer.on("end", () => resolve({
            same: JSON.parse(Buffer.concat(pieces)).sha256 === digest(body),
            version: socket.getProtocol(),
            alpn: socket.alpnProtocol,
            resumed,
        }));
    });
    request.on("error", reject);
    request.end(body);
});

const websocket = () => new Promise((resolve, reject) => {
    const socket = new WebSocket(`wss://${address}/ws`, tls);
    const sent = [Buffer.from("text"), randomBytes(0), randomBytes(Number(size)), randomBytes(100)];
    const received = [];
    let pong;
    socket.on("open", () => {
        sent.forEach((data, at) => socket.send(at ? data : data.toString()));
        socket.ping("are you there");
    });
    socket.on("pong", data => { pong = data.toString(); });
    socket.on("message", data => {
        received.push(data);
        if (received.length === sent.length) socket.close(4000, "done");
    });
    socket.on("error", reject);
    socket.on("close", code => resolve({
        code, pong, same: received.length === sent.length && received.every((data, at) => data.equals(sent[at])),
    }));
});

(async () => {
    const found = { first: await upload(), second: await upload(), websocket: await websocket() };
    console.log(JSON.stringify(found));
})().catch(error => { console.error(error); process.exit(1); });
