"""The side-by-side benchmark: this gateway and other proxies under the same load, in one run.

`load.c` is the load (built by `build`, driven by `load`); `proxies` configures each proxy, `process` starts and ends
it, `certificate` makes what it uses over TLS, `instance` proves that it upgrades, `cpu` reads what it cost, `pings` how
evenly Pings are spread; `priority` keeps neighbours out of latencies; `scenarios` lists what is measured (`scenario`
says what one is), `tunnels`, `silence`, `plain`, `burst` and `rest` measure it, `turns` alternates between proxies and
`run` between pairs; `targets` judges and `report` prints.
How to run it and how to read it: bench/README.md.
"""
