"""One file a task; the table is `config.tasks`."""
