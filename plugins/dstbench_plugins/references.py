"""BibTeX of what the built-in strategies and recipes were published in."""

from __future__ import annotations

SET = """@article{mocanu2018set,
  title = {Scalable Training of Artificial Neural Networks with Adaptive Sparse Connectivity inspired by
           Network Science},
  author = {Mocanu, Decebal Constantin and Mocanu, Elena and Stone, Peter and Nguyen, Phuong H. and Gibescu, Madeleine
            and Liotta, Antonio},
  journal = {Nature Communications},
  volume = {9},
  pages = {2383},
  year = {2018},
  doi = {10.1038/s41467-018-04316-3},
  eprint = {1707.04780},
  archiveprefix = {arXiv},
}"""
RIGL = """@inproceedings{evci2020rigl,
  title = {Rigging the Lottery: Making All Tickets Winners},
  author = {Evci, Utku and Gale, Trevor and Menick, Jacob and Castro, Pablo Samuel and Elsen, Erich},
  booktitle = {International Conference on Machine Learning},
  year = {2020},
  eprint = {1911.11134},
  archiveprefix = {arXiv},
}"""
ITOP = """@inproceedings{liu2021itop,
  title = {Do We Actually Need Dense Over-Parameterization? In-Time Over-Parameterization in Sparse Training},
  author = {Liu, Shiwei and Yin, Lu and Mocanu, Decebal Constantin and Pechenizkiy, Mykola},
  booktitle = {International Conference on Machine Learning},
  year = {2021},
  eprint = {2102.02887},
  archiveprefix = {arXiv},
}"""
SNFS = """@misc{dettmers2019snfs,
  title = {Sparse Networks from Scratch: Faster Training without Losing Performance},
  author = {Dettmers, Tim and Zettlemoyer, Luke},
  year = {2019},
  eprint = {1907.04840},
  archiveprefix = {arXiv},
}"""
DSR = """@inproceedings{mostafa2019dsr,
  title = {Parameter Efficient Training of Deep Convolutional Neural Networks by Dynamic Sparse Reparameterization},
  author = {Mostafa, Hesham and Wang, Xin},
  booktitle = {International Conference on Machine Learning},
  year = {2019},
  eprint = {1902.05967},
  archiveprefix = {arXiv},
}"""
MEST = """@inproceedings{yuan2021mest,
  title = {{MEST}: Accurate and Fast Memory-Economic Sparse Training Framework on the Edge},
  author = {Yuan, Geng and Ma, Xiaolong and Niu, Wei and Li, Zhengang and Kong, Zhenglun and Liu, Ning and Gong, Yifan
            and Zhan, Zheng and He, Chaoyang and Jin, Qing and Wang, Siyue and Qin, Minghai and Ren, Bin
            and Wang, Yanzhi and Liu, Sijia and Lin, Xue},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021},
  eprint = {2110.14032},
  archiveprefix = {arXiv},
}"""
GMP = """@misc{zhu2017gmp,
  title = {To Prune, or Not to Prune: Exploring the Efficacy of Pruning for Model Compression},
  author = {Zhu, Michael and Gupta, Suyog},
  year = {2017},
  eprint = {1710.01878},
  archiveprefix = {arXiv},
}"""
GRANET = """@inproceedings{liu2021granet,
  title = {Sparse Training via Boosting Pruning Plasticity with Neuroregeneration},
  author = {Liu, Shiwei and Chen, Tianlong and Chen, Xiaohan and Atashgahi, Zahra and Yin, Lu and Kou, Huanyu
            and Shen, Li and Pechenizkiy, Mykola and Wang, Zhangyang and Mocanu, Decebal Constantin},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021},
  eprint = {2106.10404},
  archiveprefix = {arXiv},
}"""
SRIGL = """@inproceedings{lasby2024srigl,
  title = {Dynamic Sparse Training with Structured Sparsity},
  author = {Lasby, Mike and Golubeva, Anna and Evci, Utku and Nica, Mihai and Ioannou, Yani},
  booktitle = {International Conference on Learning Representations},
  year = {2024},
  eprint = {2305.02299},
  archiveprefix = {arXiv},
}"""
CHASE = """@inproceedings{yin2023chase,
  title = {Dynamic Sparsity Is Channel-Level Sparsity Learner},
  author = {Yin, Lu and Li, Gen and Fang, Meng and Shen, Li and Huang, Tianjin and Wang, Zhangyang
            and Menkovski, Vlado and Ma, Xiaolong and Pechenizkiy, Mykola and Liu, Shiwei},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023},
  eprint = {2305.19454},
  archiveprefix = {arXiv},
}"""
SNIP = """@inproceedings{lee2019snip,
  title = {{SNIP}: Single-shot Network Pruning based on Connection Sensitivity},
  author = {Lee, Namhoon and Ajanthan, Thalaiyasingam and Torr, Philip H. S.},
  booktitle = {International Conference on Learning Representations},
  year = {2019},
  eprint = {1810.02340},
  archiveprefix = {arXiv},
}"""
SHUFFLED_BLOCK = """@inproceedings{jiang2022shuffled,
  title = {Exposing and Exploiting Fine-Grained Block Structures for Fast and Accurate Sparse Training},
  author = {Jiang, Peng and Hu, Lihan and Song, Shihui},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022},
}"""
STATE_OF_SPARSITY = """@misc{gale2019state,
  title = {The State of Sparsity in Deep Neural Networks},
  author = {Gale, Trevor and Elsen, Erich and Hooker, Sara},
  year = {2019},
  eprint = {1902.09574},
  archiveprefix = {arXiv},
}"""
N_OF_M = """@misc{mishra2021accelerating,
  title = {Accelerating Sparse Deep Neural Networks},
  author = {Mishra, Asit and Albericio Latorre, Jorge and Pool, Jeff and Stosic, Darko and Stosic, Dusan
            and Venkatesh, Ganesh and Yu, Chong and Micikevicius, Paulius},
  year = {2021},
  eprint = {2104.08378},
  archiveprefix = {arXiv},
}"""
CHTS = """@misc{zhang2025chts,
  title = {Brain network science modelling of sparse neural networks enables Transformers and {LLMs} to perform as
           fully connected},
  author = {Zhang, Yingtao and Cerretti, Diego and Zhao, Jialin and Wu, Wenjing and Liao, Ziheng and Michieli, Umberto
            and Cannistraci, Carlo Vittorio},
  year = {2025},
  eprint = {2501.19107},
  archiveprefix = {arXiv},
}"""
LAMP = """@inproceedings{lee2021lamp,
  title = {Layer-adaptive Sparsity for the Magnitude-based Pruning},
  author = {Lee, Jaeho and Park, Sejun and Mo, Sangwoo and Ahn, Sungsoo and Shin, Jinwoo},
  booktitle = {International Conference on Learning Representations},
  year = {2021},
  eprint = {2010.07611},
  archiveprefix = {arXiv},
}"""
ACDC = """@inproceedings{peste2021acdc,
  title = {{AC/DC}: Alternating Compressed/DeCompressed Training of Deep Neural Networks},
  author = {Peste, Alexandra and Iofinova, Eugenia and Vladu, Adrian and Alistarh, Dan},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021},
  eprint = {2106.12379},
  archiveprefix = {arXiv},
}"""
TAYLOR = """@inproceedings{molchanov2019importance,
  title = {Importance Estimation for Neural Network Pruning},
  author = {Molchanov, Pavlo and Mallya, Arun and Tyree, Stephen and Frosio, Iuri and Kautz, Jan},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2019},
  eprint = {1906.10771},
  archiveprefix = {arXiv},
}"""
GSE = """@misc{heddes2024gse,
  title = {Always-Sparse Training by Growing Connections with Guided Stochastic Exploration},
  author = {Heddes, Mike and Srinivasa, Narayan and Givargis, Tony and Nicolau, Alexandru},
  year = {2024},
  eprint = {2401.06898},
  archiveprefix = {arXiv},
}"""
PIXELFLY = """@inproceedings{dao2022pixelfly,
  title = {Pixelated Butterfly: Simple and Efficient Sparse Training for Neural Network Models},
  author = {Dao, Tri and Chen, Beidi and Liang, Kaizhao and Yang, Jiaming and Song, Zhao and Rudra, Atri
            and R{\\'e}, Christopher},
  booktitle = {International Conference on Learning Representations},
  year = {2022},
  eprint = {2112.00029},
  archiveprefix = {arXiv},
}"""
TRANSPOSABLE = """@inproceedings{hubara2021accelerated,
  title = {Accelerated Sparse Neural Training: A Provable and Efficient Method to Find {N:M} Transposable Masks},
  author = {Hubara, Itay and Chmiel, Brian and Island, Moshe and Banner, Ron and Naor, Joseph and Soudry, Daniel},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2021},
  eprint = {2102.08124},
  archiveprefix = {arXiv},
}"""
