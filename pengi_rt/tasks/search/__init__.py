"""Search in a collection of recordings (paper, section 5.4), and the index it needs.

An index is a folder::

    sounds.index/
        current             the name of the current generation, e.g. g000007
        g000007/            one generation; its files never change
            index.json      plan, settings, sizes and SHA-256 of the other files
            rows.jsonl      one row per window: recording, time, caption
            captions.npy    float32 [rows, D]: text embeddings of the captions, unit norm
            audio.npy       float32 [rows, D2]: audio embeddings of the windows, if any
        partial             finished recordings of a run that has not ended
        lock                held by the writing process

Files in use are never modified, so the index survives a crash at any moment:

* A new generation is written beside the old one and synced to the disk. Then ``current`` is
  replaced atomically, and the old generation is deleted. Readers that have it open keep using it.
* A run appends each finished recording to ``partial``. A torn last record is dropped, and the next
  run continues after it. Rows of unchanged recordings come from the old generation. The new one is
  sorted by file and time: its bytes are the same whether the run was interrupted or not.
* The next writer deletes the leftovers of crashed writers, but no unknown files.

Reading takes no lock and runs no code from the index. Why this is not a database:
docs/decisions/0013-storage.md.
"""
