"""Retrieval over a collection (paper, section 5.4): the index on disk, and search in it.

An index is a folder::

    sounds.index/
        current             the name of the generation that is the index, e.g. g000007
        g000007/            one generation, never changed once it is current
            index.json      plan, settings, sizes and SHA-256 of the other files
            rows.jsonl      one JSON object a row: recording, window, caption
            captions.npy    float32 [rows, D]: the captions' text embeddings, of unit norm
            audio.npy       float32 [rows, D2]: the windows' audio embeddings, where there are any
        partial             finished recordings of a run that has not ended
        lock                held by the one process that writes

Nothing that is current is ever written to, so it survives a crash at any moment:

* A new generation is written beside the old one and brought to the disk. Then ``current`` is
  replaced, atomically, and then the old generation is deleted. Whoever has that one open keeps it.
* A run appends each finished recording to ``partial``, in one checksummed record. A torn last
  record is dropped, and the next run goes on behind it. Rows of recordings that did not change
  come from the old generation. The new one is sorted by file and time: it has the same bytes
  whether the run was interrupted or not.
* What crashed writers left behind, the next one deletes; never a file that it does not know.

Reading takes no lock and runs no code from the index.
"""
