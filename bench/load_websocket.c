/* Just enough of RFC 6455: the accept value (section 4.2.2), frame headers and masking (section 5). */
#define _GNU_SOURCE
#include "load.h"

#include <string.h>

static uint32_t rotate(uint32_t value, int bits) { return (value << bits) | (value >> (32 - bits)); }

static void sha1_block(uint32_t state[5], const uint8_t block[64]) {
    uint32_t w[80];
    for (int i = 0; i < 16; i++) {
        w[i] = (uint32_t)block[4 * i] << 24 | (uint32_t)block[4 * i + 1] << 16 | (uint32_t)block[4 * i + 2] << 8 |
               block[4 * i + 3];
    }
    for (int i = 16; i < 80; i++) w[i] = rotate(w[i - 3] ^ w[i - 8] ^ w[i - 14] ^ w[i - 16], 1);
    uint32_t a = state[0], b = state[1], c = state[2], d = state[3], e = state[4];
    for (int i = 0; i < 80; i++) {
        uint32_t f, k;
        if (i < 20) f = (b & c) | (~b & d), k = 0x5A827999;
        else if (i < 40) f = b ^ c ^ d, k = 0x6ED9EBA1;
        else if (i < 60) f = (b & c) | (b & d) | (c & d), k = 0x8F1BBCDC;
        else f = b ^ c ^ d, k = 0xCA62C1D6;
        uint32_t next = rotate(a, 5) + f + e + k + w[i];
        e = d, d = c, c = rotate(b, 30), b = a, a = next;
    }
    state[0] += a, state[1] += b, state[2] += c, state[3] += d, state[4] += e;
}

static void base64(const uint8_t *in, size_t bytes, char *out) {
    static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < bytes; i += 3) {
        size_t left = bytes - i;
        uint32_t group = (uint32_t)in[i] << 16 | (left > 1 ? (uint32_t)in[i + 1] << 8 : 0) | (left > 2 ? in[i + 2] : 0);
        *out++ = alphabet[group >> 18];
        *out++ = alphabet[group >> 12 & 63];
        *out++ = left > 1 ? alphabet[group >> 6 & 63] : '=';
        *out++ = left > 2 ? alphabet[group & 63] : '=';
    }
    *out = 0;
}

void accept_value(const char key[KEY_CHARS], char out[ACCEPT_CHARS + 1]) {
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    uint8_t blocks[128] = {0}, digest[20];
    const size_t bytes = KEY_CHARS + sizeof guid - 1;   /* 60: the length field falls into a second block */
    memcpy(blocks, key, KEY_CHARS);
    memcpy(blocks + KEY_CHARS, guid, sizeof guid - 1);
    blocks[bytes] = 0x80;
    blocks[126] = (uint8_t)(bytes * 8 >> 8);
    blocks[127] = (uint8_t)(bytes * 8);
    uint32_t state[5] = {0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0};
    sha1_block(state, blocks);
    sha1_block(state, blocks + 64);
    for (int i = 0; i < 20; i++) digest[i] = (uint8_t)(state[i / 4] >> (24 - 8 * (i % 4)));
    base64(digest, sizeof digest, out);
}

void make_key(uint64_t number, char out[KEY_CHARS + 1]) {
    uint64_t nonce[2] = {number * 0x9E3779B97F4A7C15u, ~number};
    base64((const uint8_t *)nonce, sizeof nonce, out);
}

size_t frame_header(uint8_t *out, enum opcode opcode, uint64_t payload_bytes, const uint8_t *mask_key) {
    size_t used = 2;
    uint8_t masked = mask_key ? 0x80 : 0;
    out[0] = (uint8_t)(0x80 | opcode);
    if (payload_bytes < 126) {
        out[1] = (uint8_t)(masked | payload_bytes);
    } else if (payload_bytes < 65536) {
        out[1] = masked | 126;
        out[2] = (uint8_t)(payload_bytes >> 8);
        out[3] = (uint8_t)payload_bytes;
        used = 4;
    } else {
        out[1] = masked | 127;
        for (int i = 0; i < 8; i++) out[2 + i] = (uint8_t)(payload_bytes >> (56 - 8 * i));
        used = 10;
    }
    if (mask_key) {
        memcpy(out + used, mask_key, 4);
        used += 4;
    }
    return used;
}

/* How long the header is as far as the bytes at hand tell. */
size_t header_bytes_needed(const uint8_t *header, size_t have) {
    if (have < 2) return 2;
    unsigned length = header[1] & 0x7F;
    return 2 + (length == 126 ? 2 : length == 127 ? 8 : 0) + (header[1] & 0x80 ? 4 : 0);
}

uint64_t header_payload_bytes(const uint8_t *header) {
    unsigned length = header[1] & 0x7F;
    if (length < 126) return length;
    if (length == 126) return (uint64_t)header[2] << 8 | header[3];
    uint64_t bytes = 0;
    for (int i = 0; i < 8; i++) bytes = bytes << 8 | header[2 + i];
    return bytes;
}

void unmask(uint8_t *out, const uint8_t *in, size_t bytes, const uint8_t key[4], unsigned phase) {
    uint8_t turned[8];
    uint64_t wide, word;
    for (unsigned i = 0; i < 8; i++) turned[i] = key[(phase + i) & 3];
    memcpy(&wide, turned, 8);
    size_t i = 0;
    for (; i + 8 <= bytes; i += 8) {
        memcpy(&word, in + i, 8);
        word ^= wide;
        memcpy(out + i, &word, 8);
    }
    for (; i < bytes; i++) out[i] = in[i] ^ turned[i & 7];
}

/* The value of a header of a NUL-terminated head (proxies change the case of names), or NULL. */
const char *find_header(const char *head, const char *name) {
    size_t length = strlen(name);
    for (const char *line = strchr(head, '\n'); line; line = strchr(line, '\n')) {
        if (strncasecmp(++line, name, length) || line[length] != ':') continue;
        line += length + 1;
        return line + strspn(line, " \t");
    }
    return NULL;
}
