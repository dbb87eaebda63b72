"""A job: the YAML file that says where volume and tables are and what is cut, as typed records."""
