"""Views of images: what is cut and coloured, which patches are masked, and the random numbers of both."""
