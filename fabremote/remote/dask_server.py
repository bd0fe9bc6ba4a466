"""A Dask scheduler or worker in a call's process: it serves until stdin ends or it closes itself.

Its address goes to stdout, on a line after a marker. The interpreter must have
`distributed`; apart from that, only the standard library is needed.
"""

import json
import os

# How long a server may take to close, in seconds.
CLOSING = 5


def serve(marker, term, args, options, security):
    """Run the server class named ``term`` with these arguments, in this process."""
    # The caller's settings are read from the environment as dask is imported.
    import asyncio

    from distributed.security import Security
    from distributed.utils import import_term

    async def main():
        if security is not None:
            options["security"] = Security(**security)
        server = import_term(term)(*args, **options)
        await server
        os.write(1, ("\n%s%s\n" % (marker, json.dumps(server.address))).encode())
        await end_of(server)

    asyncio.run(main())


async def end_of(server):
    """Wait until a server has closed, or until stdin has ended, and close it then."""
    import asyncio

    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    def on_stdin():
        if not os.read(0, 1024):
            loop.remove_reader(0)
            over.set()

    loop.add_reader(0, on_stdin)
    waits = [asyncio.ensure_future(each) for each in (server.finished(), over.wait())]
    await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    loop.remove_reader(0)
    if over.is_set():
        await asyncio.wait_for(server.close(), CLOSING)
    for each in waits:
        each.cancel()
