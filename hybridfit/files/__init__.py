"""Safe opening of files named by users: regular files only, up to a size limit."""
