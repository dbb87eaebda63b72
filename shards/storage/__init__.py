"""Files by name below a path or URL: local, object store, HTTP, with cache and locks."""
