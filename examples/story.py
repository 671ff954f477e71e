import wasmrt


async def tell(url, show):
    """Write a text with the model at `url`; `show` is called with each piece."""
    try:
        async with await wasmrt.open(url, memory="1GiB") as model:
            story = model.generate("Once upon a time", max_tokens=64)
            async for piece in story:
                show(piece)
            show(f"\n\n{len(story.tokens)} tokens, {story.stats.decode_tokens_per_second:.0f} a second")
    except wasmrt.WasmrtError as error:
        show(f"{type(error).__name__}: {error}")
