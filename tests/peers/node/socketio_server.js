// Echoes, by socket.io: long-polling and WebSocket on one path. Arguments: port.
const { createServer } = require("node:http");
const { Server } = require("socket.io");

const http = createServer();
new Server(http).on("connection", socket => {
    socket.on("echo", (message, answer) => answer(message));
    socket.on("transport", answer => answer(socket.conn.transport.name));
});
http.listen(Number(process.argv[2]), "127.0.0.1");
