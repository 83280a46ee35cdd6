"""Search for the folders of runs in a bucket, with one listing."""

from rrd_jax import buckets, user_paths
from rrd_jax.runs import folders
from rrd_jax.runs.folders import Folder


def search(root: str) -> list[Folder]:
    """Finds all runs in a folder of a bucket and its subfolders, each before those in its folder.

    Raises:
      InputError: the bucket does not exist.
      BucketError: the bucket cannot be reached or accessed.
    """
    path = user_paths.path_of(root)
    buckets.check(path)
    listed = buckets.entries(path)
    names: dict[str, set[str]] = {}
    for parts in (name.split("/") for name in listed):
        for i, part in enumerate(parts):
            names.setdefault("/".join(parts[:i]), set()).add(part)
    runs, pending = {}, [("", "")]
    while pending:
        name, parent = pending.pop()
        files = frozenset(names.get(name, ()))
        location = f"{path}/{name}" if name else str(path)
        if is_run := folders.is_run(files):
            role = folders.role(location, parent)
            runs[name] = Folder(location, name or ".", role, files, parent, {})
        for file in sorted(files, reverse=True):
            inner = f"{name}/{file}" if name else file
            if inner in names and not folders.is_skipped(file, in_run=is_run):
                pending.append((inner, location if is_run else parent))
    for name, entry in listed.items():
        home = name
        while home not in runs and home:
            home = home.rpartition("/")[0]
        if home in runs:
            runs[home].objects[name.removeprefix(home).strip("/")] = entry
    return list(runs.values())
