"""Programs: the forward pass, recorded once per kind of layer and replayed for every token."""
