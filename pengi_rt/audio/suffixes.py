"""Suffixes of audio files: those that are read, and those that are skipped and counted."""

SUFFIXES = (
    *(".wav", ".wave", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".bwf", ".rf64", ".bw64", ".w64"),
    *(".aif", ".aiff", ".aifc", ".caf", ".au", ".snd"),
)
"""Suffixes read by every installation; see :mod:`pengi_rt.audio.container`."""

EXTRA_SUFFIXES = (
    *(".m4a", ".m4b", ".m4r", ".mp4", ".m4v", ".mov", ".qt", ".3gp", ".3g2", ".aac", ".adts"),
    *(".webm", ".weba", ".mkv", ".mka", ".wma", ".wmv", ".asf", ".amr", ".awb", ".avi"),
    *(".spx", ".ogv", ".ogx"),
)
"""Suffixes read with the extra ``formats``."""

OTHER_SUFFIXES = (
    *(".wv", ".ape", ".mpc", ".mp+", ".mpp", ".tta", ".tak", ".ofr", ".shn", ".la", ".dsf", ".dff"),
    *(".dts", ".dtshd", ".mlp", ".thd", ".ac3", ".eac3", ".ec3", ".mp1", ".mp2", ".mpga", ".mpa"),
    *(".ra", ".ram", ".rm", ".rmvb", ".aa", ".aax", ".m4p", ".mid", ".midi", ".kar", ".mod", ".xm"),
    *(".it", ".s3m", ".voc", ".gsm", ".qcp", ".vox", ".sph", ".nist", ".raw", ".pcm", ".iff"),
    *(".8svx", ".svx", ".paf", ".sd2", ".ircam", ".sf", ".avr", ".xi", ".wve", ".htk", ".dss"),
    *(".ds2", ".dvf", ".msv", ".adx", ".at3", ".oma", ".aa3", ".g722", ".g729", ".flv", ".mts"),
    *(".m2ts", ".mpg", ".mpeg", ".vob"),
)
"""Suffixes of audio, and of video with sound, that must be converted first."""
