"""The contracts between stages: paths of RUN, schemas of tables, records, and reasons why a pair goes no further."""
