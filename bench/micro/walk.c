/* The yardstick: read every header, check its size, step over the body. No handler, no Python. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct header {
    uint16_t packet_id;
    uint16_t packet_size;
    uint32_t sequence;
};

size_t walk(const uint8_t *data, size_t size, size_t max_packet_size, uint64_t *sum)
{
    size_t packets = 0, at = 0;
    struct header header;
    while (size - at >= sizeof header) {
        memcpy(&header, data + at, sizeof header);
        if (header.packet_size < sizeof header || header.packet_size > max_packet_size)
            return 0;
        if (header.packet_size > size - at)
            break;
        *sum += header.packet_id + header.sequence;
        at += header.packet_size;
        packets++;
    }
    return packets;
}
