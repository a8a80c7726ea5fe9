// Subscribes and sends by @stomp/stompjs, and prints what came. Arguments: URL.
const WebSocket = require("ws");
const { Client } = require("@stomp/stompjs");

let socket;
const client = new Client({
    webSocketFactory: () => socket = new WebSocket(process.argv[2], ["v12.stomp", "v11.stomp", "v10.stomp"]),
    connectHeaders: { login: "guest", passcode: "guest", host: "/" },
    heartbeatIncoming: 1000,
    heartbeatOutgoing: 1000,
    reconnectDelay: 0,
});
const fail = what => { console.log(JSON.stringify({ error: String(what) })); process.exit(1); };
client.onStompError = frame => fail(frame.headers.message);
client.onWebSocketError = event => fail(event.message);
client.onConnect = frame => {
    const bodies = [];
    client.subscribe("/topic/gateway", async message => {
        bodies.push(message.body);
        if (bodies.length < 3) return;
        await client.deactivate();
        console.log(JSON.stringify({ version: frame.headers.version, protocol: socket.protocol, bodies }));
    }, { receipt: "subscribed" });
    client.watchForReceipt("subscribed", () => {
        for (const body of ["one", "h\u00e9llo", "x".repeat(200000)])
            client.publish({ destination: "/topic/gateway", body });
    });
};
client.activate();
