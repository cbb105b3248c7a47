"""Does a transcoder belong to a model, and does it read and write where its files say?"""
