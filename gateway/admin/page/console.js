// "Try it", in demo mode: tunnels from this browser through the gateway to the echo backend.

import { byId, element } from "./dom.js";

const MOST_LINES = 200;
let started = false;
let opened = 0;

// Shows the console, once. `changed` is called when a tunnel was opened or has ended.
export function startConsole(url, changed) {
  if (started) return;
  started = true;
  byId("url").value = url;
  byId("try").hidden = false;
  byId("open").addEventListener("submit", (event) => {
    event.preventDefault();
    openTunnel(changed);
  });
}

function openTunnel(changed) {
  const subprotocol = byId("subprotocol").value.trim();
  const problem = byId("open-error");
  problem.hidden = true;
  let socket;
  try {
    socket = new WebSocket(byId("url").value.trim(), subprotocol ? [subprotocol] : []);
  } catch (error) {
    problem.textContent = `${error.message} Type an address such as ws://127.0.0.1:8080/ and no spaces in the subprotocol.`;
    problem.hidden = false;
    return;
  }
  opened += 1;
  byId("consoles").prepend(new Tunnel(socket, opened, changed).view);
}

class Tunnel {
  constructor(socket, number, changed) {
    this.socket = socket;
    this.changed = changed;
    this.sent = []; // when each message was sent that has not come back
    this.startedAt = performance.now();
    this.build(number);
    this.setState("connecting", "off");
    socket.addEventListener("open", () => this.onOpen());
    socket.addEventListener("message", (event) => this.onMessage(event));
    socket.addEventListener("close", (event) => this.onClose(event));
  }

  build(number) {
    this.state = element("span", "state");
    this.dismiss = element("button", "", "Remove");
    this.dismiss.type = "button";
    this.dismiss.hidden = true;
    this.dismiss.addEventListener("click", () => this.view.remove());
    this.log = element("ol", "log");
    this.log.setAttribute("aria-live", "polite");
    this.text = element("input");
    this.text.value = "hello";
    this.text.setAttribute("aria-label", "Message");
    this.sendButton = element("button", "primary", "Send");
    const sending = element("form", "row", null, element("label", "grow", null, this.text), this.sendButton);
    sending.addEventListener("submit", (event) => this.onSend(event));
    this.code = element("input");
    Object.assign(this.code, { type: "number", value: "1000", min: "1000", max: "4999" });
    this.code.title = "1000, or 3000 to 4999: browsers send no other code";
    this.reason = element("input");
    this.reason.placeholder = "reason";
    this.closeButton = element("button", "", "Close");
    const closing = element("form", "row", null, element("label", "", "Close code", this.code), element("label", "grow", "Reason", this.reason), this.closeButton);
    closing.addEventListener("submit", (event) => this.onCloseAsked(event));
    const head = element("div", "item-head", null, element("h3", "", `Tunnel ${number}`), this.state, this.dismiss);
    this.view = element("div", "console", null, head, this.log, sending, closing);
    this.enable(false);
  }

  onOpen() {
    this.setState("open", "good");
    const agreed = this.socket.protocol ? `, subprotocol ${this.socket.protocol}` : "";
    this.line("event", "•", `open after ${this.since(this.startedAt)}${agreed}`);
    this.enable(true);
    this.text.focus();
    this.text.select();
    this.changed();
  }

  onSend(event) {
    event.preventDefault();
    this.line("", "→", this.text.value);
    this.sent.push(performance.now());
    this.socket.send(this.text.value);
    this.text.select();
  }

  onMessage(event) {
    const at = this.sent.shift();
    const text = typeof event.data === "string" ? event.data : `${event.data.size} bytes`;
    this.line("", "←", text, at === undefined ? "" : this.since(at));
  }

  onCloseAsked(event) {
    event.preventDefault();
    try {
      this.socket.close(Number(this.code.value), this.reason.value);
      this.setState("closing", "off");
    } catch {
      this.line("event", "•", "A browser closes with 1000 or 3000 to 4999, and a reason of 123 bytes at most.");
    }
  }

  onClose(event) {
    this.setState("closed", "off");
    const reason = event.reason ? `: ${event.reason}` : "";
    this.line("event", "•", event.code === 1006
      ? "ended with no Close frame, or never opened; the gateway's access log says why"
      : `closed with ${event.code}${reason}`);
    this.enable(false);
    this.dismiss.hidden = false;
    this.changed();
  }

  setState(text, kind) {
    this.state.textContent = text;
    this.state.className = `state ${kind}`;
  }

  enable(on) {
    for (const control of [this.text, this.sendButton, this.code, this.reason, this.closeButton]) control.disabled = !on;
  }

  since(at) {
    const ms = performance.now() - at;
    return `${ms < 10 ? ms.toFixed(2) : Math.round(ms)} ms`;
  }

  line(kind, mark, text, time = "") {
    this.log.append(element("li", kind, null, element("span", "mark", mark), element("span", "text", text), element("span", "time rtt", time)));
    while (this.log.children.length > MOST_LINES) this.log.firstElementChild.remove();
    this.log.scrollTop = this.log.scrollHeight;
  }
}
