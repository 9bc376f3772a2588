"""What audio files are called: those that are read, and those that are passed over and counted."""

SUFFIXES = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".spx", ".bwf", ".rf64", ".bw64"),
    *(".w64", ".aif", ".aiff", ".aifc", ".caf", ".au", ".snd"),
)
"""Read by every installation; see :mod:`pengi_rt.audio.container`."""

EXTRA_SUFFIXES = (
    *(".m4a", ".m4b", ".m4r", ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".aac", ".adts"),
    *(".webm", ".weba", ".mkv", ".mka", ".wma", ".wmv", ".asf", ".amr", ".awb", ".mp2", ".avi"),
    *(".ac3", ".eac3", ".ec3", ".ogv", ".ogx", ".flv", ".m2ts", ".mts", ".mpg", ".mpeg"),
)
"""Read with the extra ``formats``. Not ``.ts``: in folders that is TypeScript."""

OTHER_SUFFIXES = (
    *(".wv", ".ape", ".mpc", ".mp+", ".mpp", ".tta", ".tak", ".ofr", ".shn", ".la", ".dsf", ".dff"),
    *(".dts", ".dtshd", ".mlp", ".thd", ".ra", ".ram", ".rm", ".rmvb", ".aa", ".aax", ".m4p"),
    *(".mid", ".midi", ".kar", ".mod", ".xm", ".it", ".s3m", ".voc", ".gsm", ".qcp", ".vox"),
    *(".sph", ".nist", ".raw", ".pcm", ".iff", ".8svx", ".svx", ".paf", ".sd2", ".ircam", ".sf"),
    *(".avr", ".xi", ".wve", ".htk", ".mp1", ".dss", ".ds2", ".dvf", ".msv", ".adx", ".at3"),
    *(".oma", ".aa3", ".lqt", ".g722", ".g729", ".mpga"),
)
"""Audio that is not read: convert it first."""
