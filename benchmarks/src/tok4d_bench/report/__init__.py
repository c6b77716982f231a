"""Reports: static web pages of runs, with samples, that need no server and no network."""
