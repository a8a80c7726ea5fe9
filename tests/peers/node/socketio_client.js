// Connects with socket.io's defaults: polls first, upgrades then. Prints what it saw. It keeps cookies.
// Arguments: URL, transports, how often it may connect (once by default).
const { io } = require("socket.io-client");

const transports = process.argv[3].split(",");
const tries = Number(process.argv[4] || 1);
const socket = io(process.argv[2], {
    transports, withCredentials: true, reconnection: tries > 1, reconnectionDelay: 10, reconnectionDelayMax: 20, timeout: 8000,
});
const found = { before: null, after: null, echoes: [], tries: 0 };
const done = error => {
    console.log(JSON.stringify({ ...found, error: error && String(error) }));
    socket.close();
};

let upgraded;

socket.on("connect_error", error => tries === 1 && done(error));
socket.io.on("open", () => { // before anything else happens: the upgrade may be done when "connect" comes
    found.tries += 1;
    if (found.tries > tries) return done("never connected");
    found.before = socket.io.engine.transport.name;
    upgraded = new Promise(resolve => socket.io.engine.once("upgrade", resolve));
});
socket.on("connect", async () => {
    for (const message of ["first", "x".repeat(100000)]) found.echoes.push(await socket.emitWithAck("echo", message));
    if (transports.length > 1) await upgraded;
    found.echoes.push(await socket.emitWithAck("echo", Buffer.from([1, 2, 3])));
    found.after = await socket.emitWithAck("transport");
    done();
});
