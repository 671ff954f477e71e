"""Model families: each writes its layer as a page of op calls."""
