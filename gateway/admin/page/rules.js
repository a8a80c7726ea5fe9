// Words for what routes ask of clients, and how upstreams treat their backends.

import { bytes, count, interval, plural, visible } from "./dom.js";

const MOST_SHOWN = 4;

function list(name, items) {
  if (!items.length) return [];
  const more = items.length > MOST_SHOWN ? ` and ${items.length - MOST_SHOWN} more` : "";
  return [`${name} ${items.slice(0, MOST_SHOWN).map(visible).join(", ")}${more}`];
}

function rate(what, each, { per_second: perSecond, burst }) {
  return `${count(perSecond)} ${what}/s per ${each}` + (burst === perSecond ? "" : ` (burst ${count(burst)})`);
}

export function goal(route) {
  if (route.answer !== null) return `answers ${route.answer}`;
  if (route.upstream !== null) return `to ${route.upstream}`;
  const total = route.upstreams.reduce((sum, share) => sum + share.weight, 0);
  return "to " + route.upstreams.map((share) => `${share.name} ${Number(((100 * share.weight) / total).toPrecision(3))} %`).join(", ");
}

export function routeRules({ rules }) {
  const said = rules.auth === null ? [] : [`auth ${rules.auth}`];
  said.push(...list("origins", rules.origins), ...list("allow", rules.allow), ...list("deny", rules.deny));
  if (rules.limits !== null) {
    const { handshakes_per_second: handshakes, messages_per_second: messages, tunnels_per_client: tunnels, frame_size: frame } = rules.limits;
    if (handshakes !== null) said.push(rate("handshakes", "client", handshakes));
    if (messages !== null) said.push(rate("messages", "tunnel", messages));
    if (tunnels !== null) said.push(`${plural(tunnels, "tunnel")} per client`);
    if (frame !== null) said.push(`frames up to ${bytes(frame)}`);
  }
  return said.join("; ");
}

export function upstreamRules(upstream) {
  const { hash_on: hashOn, health_check: check, eject, rebalance } = upstream.rules;
  const { discovery } = upstream;
  const said = [upstream.balance.replace("_", " ") + (hashOn === null ? "" : ` on ${visible(hashOn)}`)];
  if (check !== null) {
    said.push(`checked by ${check.kind}${check.target === null ? "" : ` ${check.target}`} every ${interval(check.every)}` + (check.on_down === "drain" ? ", drained when down" : ""));
  }
  if (eject !== null) said.push(`ejected for ${interval(eject.for)} after ${plural(eject.failures, "failure")} within ${interval(eject.within)}`);
  if (rebalance !== null) said.push(`rebalanced over ${interval(rebalance.period)}`);
  if (discovery !== null) said.push(`found by ${visible(discovery.source)}`);
  return said.join("; ");
}
