// The status page: asks the admin API every second and shows what it says.

import { startConsole } from "./console.js";
import { byId, bytes, count, duration, element, interval, keyed, plural, roundTrip, setText, visible } from "./dom.js";
import { goal, routeRules, upstreamRules } from "./rules.js";

const EVERY_MS = 1000;
const PATIENCE_MS = 5000;
const ROWS = 200;
const HISTORY_EVERY_MS = 30_000;
const CHART_WIDTH = 120;
const CHART_HEIGHT = 24;
const SVG = "http://www.w3.org/2000/svg";

class TokenNeeded extends Error {
  constructor(wasGiven) {
    super(wasGiven ? "The gateway does not accept this token." : "");
  }
}

let timer = null;
let asking = false;
let lastAnswer = null;
let history = { times: [], backends: [] };
let historyAt = -Infinity;

async function ask(path) {
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { cache: "no-store", headers, signal: AbortSignal.timeout(PATIENCE_MS) });
  if (response.status === 401) throw new TokenNeeded(token !== null);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error ?? `${response.status} ${response.statusText}`);
  return answer;
}

async function refresh() {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  asking = true;
  try {
    const query = new URLSearchParams({ limit: ROWS });
    if (byId("route").value) query.set("route", byId("route").value);
    if (byId("idle-over").value) query.set("idle_over", byId("idle-over").value);
    const [status, live] = await Promise.all([ask("api/v1/status"), ask(`api/v1/tunnels?${query}`)]);
    if (performance.now() - historyAt > HISTORY_EVERY_MS) {
      history = await ask("api/v1/history");
      historyAt = performance.now();
    }
    lastAnswer = new Date();
    byId("token-form").hidden = true;
    // The browser sends no token where a link leads.
    document.querySelector("nav").hidden = sessionStorage.getItem("token") !== null;
    show(status, live);
  } catch (error) {
    if (error instanceof TokenNeeded) askForToken(error.message);
    else showSilence(error);
  } finally {
    asking = false;
    timer = setTimeout(refresh, EVERY_MS);
  }
}

function show(status, live) {
  showHealth(status);
  showTiles(status);
  showRoutes(status);
  showUpstreams(status);
  showCertificates(status);
  showLimited(status);
  showCredentials(status);
  showTunnels(status, live);
  if (status.demo?.url) startConsole(status.demo.url, refresh);
}

function pill(text, kind) {
  setText(byId("pill"), text);
  byId("pill").className = `pill ${kind}`;
  document.title = kind === "good" ? "upgrade-gateway" : `${text} · upgrade-gateway`;
}

function notice(text) {
  byId("notice").hidden = !text;
  setText(byId("notice"), text);
}

function showHealth(status) {
  const reload = status.configuration.last_reload;
  if (status.stopping) pill("Shutting down", "warn");
  else if (!status.ready) pill("Not ready", "bad");
  else pill("Ready", "good");
  notice(reload.ok ? "" : `The latest reload failed; the previous configuration is still in force.\n${reload.error ?? ""}`);
  const since = new Date(reload.time * 1000).toLocaleString();
  setText(byId("config"), `Configuration ${status.configuration.file}, in force since ${since}`);
}

function showSilence(error) {
  pill("No answer", "bad");
  const since = lastAnswer ? `since ${lastAnswer.toLocaleTimeString()}` : "yet";
  notice(`The gateway has not answered ${since} (${error.message}). Asking again every second. Is it running? What it last said is in its log.`);
}

function askForToken(problem) {
  pill("Token needed", "warn");
  notice("");
  byId("token-form").hidden = false;
  byId("token-error").hidden = !problem;
  setText(byId("token-error"), problem);
}

function useToken(event) {
  event.preventDefault();
  sessionStorage.setItem("token", byId("token").value.trim());
  byId("token").value = "";
  refresh();
}

function showTiles(status) {
  const backends = status.upstreams.flatMap((upstream) => upstream.backends);
  const up = backends.filter((backend) => backend.up).length;
  const ready = status.workers.filter((worker) => worker.ready).length;
  setText(byId("tunnels"), count(status.tunnels));
  setText(byId("tunnels-note"), `room for ${count(status.max_tunnels)}`);
  setText(byId("backends"), `${up} of ${backends.length}`);
  setText(byId("backends-note"), up < backends.length ? `${backends.length - up} down` : "all reachable");
  setText(byId("workers"), `${ready} of ${status.workers.length}`);
  setText(byId("workers-note"), status.worker_restarts ? plural(status.worker_restarts, "restart") : "no restarts");
  setText(byId("uptime"), interval(Math.floor(status.uptime)));
  setText(byId("uptime-note"), `since ${new Date(status.started * 1000).toLocaleString(undefined, { dateStyle: "short", timeStyle: "short" })}`);
  setText(byId("version"), status.version);
  setText(byId("version-note"), `Python ${status.python}, ${status.relay} relay`);
}

function showRoutes(status) {
  keyed(byId("routes"), status.routes, (route) => route.name, makeRoute, (item, route) => {
    setText(item.querySelector(".item-head .note"), goal(route));
    setText(item.querySelector(".item-head .count"), plural(route.tunnels, "tunnel"));
    setText(item.querySelector(".pings"), ["client", "backend"].map((side) => pinged(side, route.keepalive[side])).join("; "));
    const rules = routeRules(route);
    setText(item.querySelector(".rules"), rules);
    item.querySelector(".rules").hidden = !rules;
    item.querySelector(".bars").hidden = route.tunnels === 0;
    item.querySelector(".none").hidden = route.tunnels > 0;
    const most = Math.max(...route.idle.map((bucket) => bucket.tunnels), 1);
    const said = [];
    route.idle.forEach((bucket, index) => {
      const slot = item.querySelector(".bars").children[index];
      const part = bucket.tunnels ? Math.max(0.05, bucket.tunnels / most) : 0;
      setText(slot.querySelector(".count"), bucket.tunnels ? count(bucket.tunnels) : "");
      slot.querySelector(".fill").style.height = `${part * 100}%`;
      if (bucket.tunnels) said.push(`${bucket.tunnels} ${slot.title}`);
    });
    item.querySelector(".bars").setAttribute("aria-label", said.join("; ") || "no tunnels");
  });
  const select = byId("route");
  keyed(select, ["", ...status.routes.map((route) => route.name)], (name) => name, (name) => {
    const option = element("option", "", name || "any");
    option.value = name;
    return option;
  }, () => {});
}

function makeRoute(route) {
  const head = element("div", "item-head", null, element("h3", "", route.name), element("span", "note"), element("span", "count"));
  const bars = element("div", "bars");
  bars.setAttribute("role", "img");
  let longest = "";
  for (const { le } of route.idle) {
    const bound = le === null ? `>${longest}` : short(le);
    const slot = element("div", "slot", null, element("span", "count"), element("div", "track", null, element("div", "fill")), element("span", "bound", bound));
    slot.title = le === null ? `silent for more than ${longest}` : `silent for up to ${bound}`;
    longest = bound;
    bars.append(slot);
  }
  return element("div", "item", null, head, element("p", "note rules"), element("p", "note pings"), bars, element("p", "note none", "No tunnel is open on this route."));
}

function pinged(side, { interval_seconds: pingAfter, learned_cutoff_seconds: cutoff }) {
  if (pingAfter === null) return `no Pings to ${side}s`;
  return `Pings to ${side}s after ${interval(pingAfter)}` + (cutoff === null ? "" : ` (cut at ${interval(cutoff)})`);
}

function short(seconds) {
  if (seconds < 60) return `${seconds}s`;
  return seconds < 3600 ? `${seconds / 60}m` : `${seconds / 3600}h`;
}

function showUpstreams(status) {
  const most = new Map(status.upstreams.map((upstream) => [upstream.name, Math.max(1, ...upstream.backends.map((backend) => backend.tunnels))]));
  for (const backend of history.backends) {
    if (most.has(backend.upstream)) most.set(backend.upstream, Math.max(most.get(backend.upstream), ...backend.tunnels));
  }
  const past = new Map(history.backends.map((backend) => [`${backend.upstream} ${backend.address}`, backend.tunnels]));
  keyed(byId("upstreams"), status.upstreams, (upstream) => upstream.name, makeUpstream, (item, upstream) => {
    setText(item.querySelector(".rules"), upstreamRules(upstream));
    const problem = upstream.discovery?.error ?? "";
    setText(item.querySelector(".error"), problem && `Backends cannot be found: ${visible(problem)}. The last answer stays in use.`);
    item.querySelector(".error").hidden = !problem;
    setText(item.querySelector(".item-head .count"), plural(upstream.backends.reduce((sum, backend) => sum + backend.tunnels, 0), "tunnel"));
    keyed(item.querySelector("tbody"), upstream.backends, (backend) => backend.address, makeBackend, (row, backend) => {
      const [, state, weight, chart, tunnels] = row.children;
      const ejected = backend.ejected_until !== null && backend.ejected_until !== undefined;
      state.firstElementChild.className = `state ${backend.up && !ejected ? "good" : "bad"}`;
      state.firstElementChild.title = backend.reason || "";
      setText(state.firstElementChild, !backend.up ? "down" : ejected ? "ejected" : "up");
      setText(weight, count(backend.weight));
      setText(tunnels, count(backend.tunnels));
      const counts = [...(past.get(`${upstream.name} ${backend.address}`) ?? []), backend.tunnels];
      drawChart(chart.firstElementChild, counts, most.get(upstream.name));
    });
  });
}

function makeUpstream(upstream) {
  const head = element("div", "item-head", null, element("h3", "", upstream.name), element("span", "count"));
  const titles = element("tr", "", null, element("th", "", "Backend"), element("th", "", "State"), element("th", "number", "Weight"), element("th", "", "Last hour"), element("th", "number", "Tunnels"));
  const table = element("table", "upstream-table", null, element("thead", "", null, titles), element("tbody"));
  return element("div", "item", null, head, element("p", "note rules"), element("p", "error"), table);
}

function makeBackend(backend) {
  return element("tr", "", null, element("td", "code", backend.address), element("td", "", null, element("span")), element("td", "number"), element("td", "", null, makeChart()), element("td", "number"));
}

function makeChart() {
  const chart = document.createElementNS(SVG, "svg");
  chart.setAttribute("class", "chart");
  chart.setAttribute("viewBox", `0 0 ${CHART_WIDTH} ${CHART_HEIGHT}`);
  chart.setAttribute("role", "img");
  chart.append(document.createElementNS(SVG, "path"));
  return chart;
}

// Backends of an upstream have one scale, so that their charts can be compared.
function drawChart(chart, counts, most) {
  const points = counts.length === 1 ? [counts[0], counts[0]] : counts;
  const step = CHART_WIDTH / (points.length - 1);
  const line = points.map((value, index) => `${(index * step).toFixed(1)} ${(CHART_HEIGHT - 1 - (value / most) * (CHART_HEIGHT - 2)).toFixed(1)}`);
  const path = `M${line.join("L")}L${CHART_WIDTH} ${CHART_HEIGHT}L0 ${CHART_HEIGHT}Z`;
  if (chart.firstElementChild.getAttribute("d") !== path) chart.firstElementChild.setAttribute("d", path);
  chart.setAttribute("aria-label", `between ${count(Math.min(...counts))} and ${plural(Math.max(...counts), "tunnel")} in the last hour`);
}

function showCertificates(status) {
  byId("certificates-panel").hidden = status.certificates.length === 0;
  keyed(byId("certificates"), status.certificates, (certificate) => certificate.file, makeCertificate, (row, certificate) => {
    const [, names, state, expires] = row.children;
    const days = Math.floor(certificate.expires_in / 86400);
    const [text, kind] = certificate.error !== null ? ["file is broken", "bad"] : days < 0 ? ["expired", "bad"] : [plural(days, "day") + " left", days < 14 ? "bad" : "good"];
    setText(names, certificate.names.map(visible).join(", "));
    setText(state.firstElementChild, text);
    state.firstElementChild.className = `state ${kind}`;
    state.title = certificate.error === null ? "" : `${visible(certificate.error)}; the certificate before stays in use`;
    setText(expires, new Date(certificate.expires * 1000).toLocaleDateString());
  });
}

function showCredentials(status) {
  byId("credentials-panel").hidden = status.credentials.length === 0;
  keyed(byId("credentials"), status.credentials, (each) => each.source, makeCredentials, (row, each) => {
    const [, used, state, fetched] = row.children;
    setText(used, plural(each.entries ?? 0, each.kind.slice(0, -1)));
    setText(state.firstElementChild, each.error !== null ? "failing" : each.entries === null ? "not fetched yet" : "good");
    state.firstElementChild.className = `state ${each.error !== null || each.entries === null ? "bad" : "good"}`;
    state.title = each.error === null ? "" : visible(each.error);
    setText(fetched, each.fetched === null ? "" : new Date(each.fetched * 1000).toLocaleString());
  });
}

function makeCredentials(each) {
  return element("tr", "", null, element("td", "code", visible(each.source)), element("td"), element("td", "", null, element("span")), element("td"));
}

function makeCertificate(certificate) {
  return element("tr", "", null, element("td", "code", visible(certificate.file)), element("td", "code"), element("td", "", null, element("span")), element("td"));
}

function showLimited(status) {
  byId("limited-panel").hidden = status.limited.length === 0;
  const key = (client) => [client.address, client.route, client.limit].join(" ");
  keyed(byId("limited"), status.limited, key, makeLimited, (row, client) => {
    const [, , , times, last] = row.children;
    setText(times, count(client.times));
    setText(last, new Date(client.last * 1000).toLocaleString());
  });
}

function makeLimited(client) {
  const texts = [client.address, client.route, client.limit].map((text, index) => element("td", index === 1 ? "" : "code", visible(text)));
  return element("tr", "", null, ...texts, element("td", "number"), element("td"));
}

function showTunnels(status, live) {
  const shown = live.tunnels.length;
  byId("live").hidden = shown === 0;
  byId("live-empty").hidden = shown > 0;
  const part = shown < live.total ? `${count(shown)} of ${count(live.total)}` : plural(live.total, "tunnel");
  setText(byId("live-note"), shown ? `${part}, the longest silent first` : "");
  keyed(byId("live").tBodies[0], live.tunnels, (tunnel) => tunnel.id, makeTunnel, (row, tunnel) => {
    const [age, client, clientRtt, backend, backendRtt, fromClient, fromBackend] = [...row.children].slice(5);
    setText(age, duration(tunnel.age_seconds));
    setText(client, silence(tunnel.sides.client));
    setText(clientRtt, roundTrip(tunnel.sides.client.last_rtt_seconds));
    setText(backend, silence(tunnel.sides.backend));
    setText(backendRtt, roundTrip(tunnel.sides.backend.last_rtt_seconds));
    setText(fromClient, bytes(tunnel.sides.client.bytes));
    setText(fromBackend, bytes(tunnel.sides.backend.bytes));
  });
  if (shown === 0) showNoTunnels(status);
}

function makeTunnel(tunnel) {
  const path = element("td", "code path", visible(tunnel.path));
  path.title = visible(tunnel.host + tunnel.path) + (tunnel.subprotocol ? `, subprotocol ${visible(tunnel.subprotocol)}` : "");
  const texts = [tunnel.id, tunnel.route, tunnel.backend, tunnel.client_address].map((text, index) => element("td", index === 1 ? "" : "code", visible(text)));
  return element("tr", "", null, ...texts, path, ...Array.from({ length: 7 }, () => element("td", "number")));
}

function silence(side) {
  const silent = duration(side.idle_seconds);
  return side.interval_seconds === null ? silent : `${silent} of ${interval(side.interval_seconds)}`;
}

function showNoTunnels(status) {
  const filtered = byId("route").value || byId("idle-over").value;
  if (filtered && status.tunnels) {
    emptyState("No tunnel matches.", `${plural(status.tunnels, "tunnel is", "tunnels are")} open in all; choose another route or a shorter silence.`);
  } else if (status.demo?.url) {
    emptyState("No tunnels are open.", "Press “Open a tunnel” above, and it appears here.");
  } else {
    emptyState("No tunnels are open.", `Point a WebSocket client at ${status.listen.join(" or ")}; handshakes that fail are in the access log and in gateway_handshakes_total.`);
  }
}

function emptyState(title, text) {
  const empty = byId("live-empty");
  if (empty.textContent !== title + text) empty.replaceChildren(element("strong", "", title), text);
}

document.addEventListener("visibilitychange", refresh);
byId("token-form").addEventListener("submit", useToken);
for (const id of ["route", "idle-over"]) byId(id).addEventListener("change", refresh);
refresh();
