"""From EM volumes and synapse tables to a zarr sample store, planned first and run with Dask."""
