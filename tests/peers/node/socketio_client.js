// Connects with socket.io's defaults: polls first, upgrades then. Prints what it saw. Arguments: URL, transports.
const { io } = require("socket.io-client");

const transports = process.argv[3].split(",");
const socket = io(process.argv[2], { transports, reconnection: false, timeout: 8000 });
const found = { before: null, after: null, echoes: [] };
const done = error => {
    console.log(JSON.stringify({ ...found, error: error && String(error) }));
    socket.close();
};

let upgraded;

socket.on("connect_error", done);
socket.io.on("open", () => { // before anything else happens: the upgrade may be done when "connect" comes
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
