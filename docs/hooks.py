"""What MkDocs does besides: the notebooks, which lie outside of `docs/`, become files of the site."""

import pathlib

from mkdocs.structure.files import File

NOTEBOOKS = pathlib.Path(__file__).parent.parent / "notebooks"


def on_files(files, config):
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        files.append(File.generated(config, f"notebooks/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, **_):
    """In the repository a page at the top of `docs/` links to `../notebooks`; in the site, to `notebooks`."""
    return markdown.replace("](../notebooks/", "](notebooks/")
