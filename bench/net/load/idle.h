/* Connections that log in and are silent from then on, until our standard input ends. */
#ifndef LOAD_IDLE_H
#define LOAD_IDLE_H

#include "connection.h"

static void run_idle(uint32_t connections, const char *host, int port)
{
    struct connection *all = calloc(connections, sizeof *all);
    for (uint32_t number = 0; number < connections; number++)
        open_connection(&all[number], host, port, number);
    puts("{\"ready\": true}");
    fflush(stdout);
    while (getchar() != EOF)
        continue;
    for (uint32_t number = 0; number < connections; number++)
        expect_silence(&all[number]);
}

#endif
