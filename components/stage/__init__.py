"""What a stage is: its run context, its workspace folder, its manifest, its KFP pointer."""
