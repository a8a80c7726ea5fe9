// Connects with socket.io's defaults: polls first, upgrades then. Prints what it saw. Arguments: URL, transports.
const { io } = require("socket.io-client");

const transports = process.argv[3].split(",");
const socket = io(process.argv[2], { transports, reconnection: false, timeout: 8000 });
const found = { before: null, after: null, echoes: [] };
const done = error => {
    console.log(JSON.stringify({ ...found, error: error && String(error) }));
    socket.close();
};

socket.on("connect_error", done);
socket.on("connect", async () => {
    const engine = socket.io.engine;
    found.before = engine.transport.name;
    const upgraded = new Promise(resolve => engine.once("upgrade", resolve));
    for (const message of ["first", "x".repeat(100000)]) found.echoes.push(await socket.emitWithAck("echo", message));
    if (transports.length > 1) await upgraded;
    found.echoes.push(await socket.emitWithAck("echo", Buffer.from([1, 2, 3])));
    found.after = await socket.emitWithAck("transport");
    done();
});
