"""Tasks in threads and processes: Dask's local schedulers, pools that heed Ctrl-C, forks."""
