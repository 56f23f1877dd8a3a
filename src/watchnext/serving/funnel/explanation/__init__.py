"""An answer > its reasons: why each video, what each stage did, which parameters the release has."""
