/* Latencies in log-linear buckets: 128 to a power of two, so that a quantile is right to within 1 %. */
#include "load.h"

#include <stdio.h>
#include <string.h>

enum { SUB_BITS = 7, SUB = 1 << SUB_BITS, BUCKETS = SUB * (64 - SUB_BITS + 1) };

static uint64_t counts[BUCKETS], total;

void histogram_reset(void) {
    memset(counts, 0, sizeof counts);
    total = 0;
}

void histogram_add(uint64_t ns) {
    unsigned shift = ns < SUB ? 0 : (unsigned)(63 - __builtin_clzll(ns)) - SUB_BITS;
    counts[(ns >> shift) + (uint64_t)shift * SUB]++;
    total++;
}

double histogram_us(double quantile) {
    uint64_t rank = (uint64_t)(quantile * (double)total), seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += counts[i];
        if (seen > rank) {
            unsigned shift = i < 2 * SUB ? 0 : i / SUB - 1;
            return (double)((uint64_t)(i - shift * SUB) << shift) / 1000.0;
        }
    }
    return 0;
}

/* The line of JSON that ends a measurement. */
void print_result(long count, uint64_t started_ns) {
    printf("{\"count\": %ld, \"seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f}\n", count,
           (double)(now_ns() - started_ns) / 1e9, histogram_us(0.5), histogram_us(0.99));
}
