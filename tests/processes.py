"""Processes that tests start: children of a server that has torch imported, each there at once.

None is a fork of the tests' own process, whose threads would not be in it. (Windows has no such
server: there each process imports what it needs.)
"""

import multiprocessing

ways = multiprocessing.get_all_start_methods()
server = multiprocessing.get_context("forkserver" if "forkserver" in ways else "spawn")
server.set_forkserver_preload(["torch._dynamo", "test_distributed"])


def download(url, digest, root):
    """Read the text that has this digest from another address; here, because little is imported."""
    from ngram import corpus

    corpus.URL, corpus.SHA256 = url, digest
    corpus.read_tiny_shakespeare(None, root)
