"""What is kept: run directories, caches, item outcomes, the deployment lockfile, the report and its plain-text form."""
