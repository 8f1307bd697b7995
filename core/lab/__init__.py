"""The lab's database: models, work and its life, queries, tables, artefacts, accounts."""
