"""What is right for each case of canary.py, f32 (passes, SUMS) as base85. Written by tools/record_canary.py."""

TRUTH: dict[str, str] = {
    "embed F32": (
        "riLxT*iLN1C<3NJhdDh${4r!g-3Ri)=E?fOQpVapta&8CgRGOl;vh=FRNCOcz^LoKiWwHba1<878i_tZ$~cWcq^$`+"
    ),
    "embed F16": (
        "h|4xY(5v;q0Ky2ruxFjYFx2+Jr0B9jAgDdT;Ob04pyW_NK$N_|0F8w|z;@q20Fb&rp!=0UfIy5u06-bP09r{vfcmgN"
    ),
    "embed Q4_0": (
        "X#3tk03NkHIBfU87^Aa5kN^QdP|S3|fEe;Vu&Q)GATx)**g>K|7$1N@kgs$=KqMBwKuTplAPdvKfY6=3z(z^GK$vVl"
    ),
    "embed Q4_1": (
        "AhOdypsi%UAZ=v8;O>Ayz+Dc&z^rh=fTo1LK;9O=V3DG~;0M4z_}7BKaK2W+U|=>t0PA)?z<`B6K>ggmfDkso08VYd"
    ),
    "embed Q5_0": (
        "aD=(R2;-eWK$Mxk03<O#L?hV27%O+dpeEQr0AsVh0OiEL06yqIAoerCfX6Jq5aVS)&`eoC0CifvpbN=A;6VL9U<uhj"
    ),
    "embed Q5_1": (
        "fF32mfKDC2z%n7gz?=ZVOtP^-0FRwMgg17<jOi-DxWkCRz)KxJU@VY7aN{vRfaIG$;0sc~&|1mB08oLz5F5I{uw~D{"
    ),
    "embed Q8_0": (
        "YyOzR1VXbyz4*yOe3O<zc=IE|dxDHYYV@f=H$pc;lHAw9kVgf;B*r|!7>wsY;+e$3z<6vw!VvL6m@xQ21h#!aq_Ysg"
    ),
    "embed Q2_K": (
        "nCyDNByFxi2<Ht!@ZMU%{L`mFuyENx5Y1x1nC-$q@{89&fCBA4U?Yn^tk?oU&~vcBuvCCRaCz>)0Ddw)0DF$UP$u6%"
    ),
    "embed Q3_K": (
        "GA0Vb_!i1Sz~W~>z_UNXEUL@FEsBUjr!5CUEcA0he=ZwBNY<vntipW3we%4}z~%G5=q*pds5>S>z;T|x$lD0P5YxXv"
    ),
    "embed Q4_K": (
        "`Rd=pYS&rBX6XpRzk#ts0P4@d@hGN4?HFCdtKd393c=(;3pXr74Cy~X%4`Qiz%gGx!ERYX^1s%>7kLrFJ&|0(u9uL)"
    ),
    "embed Q5_K": (
        "iSS!QO3b!H_J1qGi8l$vZZAqi3rvs1*!D8SF@+UF@DuVvc{Ec)N@{S!OaP+7cmx5$j$#DEFuB>mGz%QV=qrW75D_!O"
    ),
    "embed Q6_K": (
        "1ped1rq<-c#lmF72j)=4a_<gBRlPLC)7N{$96krcc@L9AxSDmuJ0%W7qY{im;uCvAV6&9MlZ!n<AHH3}=XXBC*Tz3W"
    ),
    "embed IQ2_XXS": (
        "^i<D5RKaV)8#0=~x70Sne25;xKS}DqoIMf35|J`OXdI0|OMIU}H5rP*T|y8-_YDHU3K@pLUxpJw!bZKoM7U!>5NrZJ"
    ),
    "embed IQ2_XS": (
        "{9I5%h-*s2#{Q4O&+ZvRg}d)UjRJc@dP^oj>b}Uq3bEWkRboKGTqmBv>=~p%Lir0p=bQgQP%h6u=xSxaj_?n{PTUVc"
    ),
    "embed IQ3_XXS": (
        "1mWJpAWEaa<l581+}d<O@E!-kvjCeyP@*kDTo{}|Xjs$1u-AIQmdm?BFcrhVylpK)I3dnK+!G)|#7;5703~}rxXj5x"
    ),
    "embed IQ1_S": (
        "z_u#E3W<wB_-Ea}iV}f9{P=3Xe1DU`AfdrOKI95PC~-nS*o`khs8eb{R5PN$07%+B0J5b%0BMT90G6}90H7{Dz-Al3"
    ),
    "embed IQ4_NL": (
        "X3ywC{N4@0rZV)xxRI<v6D0*gzg%C!*jmRxfr?c^W^tOqF29#T-Tpd4QH)_i?7uF-EMrMQ-X^)hxZ|<FTwiX%eqw?_"
    ),
    "embed IQ3_S": (
        "w7s9fxa@>M(1LQp+O*rklui0UxSWi_PJIePT&!cl)YUygkfa<!sEdq300#KKfcud`0KwcqC~lO&hyWnM7{QIfz~ytn"
    ),
    "embed IQ2_S": (
        "vy(2uzPn{XAa0hzr9am}z!(KV1iH;a@WQJ>O7NmUb0ZYO?F}HpqPE0Bk)ahr8X?QUI7pqrzy&_QfSoQt7)$)X0B%h|"
    ),
    "embed IQ4_XS": (
        "Xv(ET#=vjH`_!<+&yk+P{x@<(En0>}@{&wM0*r4$$x(*F+h2l2TLy;2I8PEn;UF8slcW?vu23FBc)_f~#J2;%4RCov"
    ),
    "embed IQ1_M": (
        "v`~mZ46p-1fGnE6$p5du=;7DD!q3e>)J$H$2zKW``V6JOSk~`9Fy&3a_~o0wfS(IK&@Zb$0Q1kj81f@P@F^6)!2bQd"
    ),
    "embed BF16": (
        "(HSkmgq&-_Z=9t<%LhF|;UHr|d|C3r&-VGj6cX1zo<t<U<*bvyUdu_r<*DDmfB@XS5X%+71OOJnJi0wWc)^T7@J0wg"
    ),
    "embed TQ1_0": (
        "fT6~|a1j7NfR*MxfXnN?Aiu3Y5W6%$fS^i00C~JV07zE70GMLE0IZol0D$nm0C4ZU0EkCE0F<*n0H7bf000000EoxF"
    ),
    "embed TQ2_0": (
        "0HC$IK+9u4_@IfvNb!(BaQ6qmAkMkJ09c|u0HguF0P>tZ02uE*00e?Q0G3og0I9Y<0N4b*01hTT0CSbT0BBu30D5S?"
    ),
    "embed MXFP4": (
        "001z)0Dv4o0KkvH006$e001Yy007Xx0DwEc004x&06?)n06^it008B_0Du9%007p$002zB008K{002He005vq008Jc"
    ),
    "matmul F32": (
        "00m^icn4iV*2wchBrCH&<n0#2`8#dFi6x}M*gWgPBzg%#(uFQU>FqZ{m_DPx4K9yAcmBP>3>q^*bh*_*S-r`@^raoa"
    ),
    "matmul F16": (
        "xLpcE4<v=c0{#g@pnvSbdokF-b}To+72rZbd9AU*z(@1J?)_H5y}nC9{Dz`F`PkgR6t925;9upuJn#R(fFcCKS}({z"
    ),
    "matmul Q4_0": (
        "y75}RaAPaMm{_wwfm|uV04%}4wb~@XTl|DSH{uGxLWV-X{xp!lO}50qHIod%brmGQEsglUpVS6GoVO3Z+MZ57ijxvS"
    ),
    "matmul Q4_1": (
        "a!8Cqqi!j}B)SX2zwhh8$lh#17v^-r5r_Uj^S=qf-|~mRQUwk{t3<rPE_bCstP7e!GeDR@f(y~WJEOe7PZTY|BC<6>"
    ),
    "matmul Q5_0": (
        "`!}h=f*u1xeK=mhh6Dyd8paVqYAP$i0nUxUu`Pl?U6~}oP*00M;V0ZdvY8}6W~PxpnOYCOA)8Y{!oxSf$F!zDBt3Y*"
    ),
    "matmul Q5_1": (
        "qO8_JBjW$U#jlD&zlKG^@Ko1A3~sT)A%giqi0EZOcP-b!HU6N$g=>evdj+1r$<FXWSpGOdoW7w!spK|6Pfi%ZKSazy"
    ),
    "matmul Q8_0": (
        "1${xo+N6`iujO(>IKGHOmV=l>@-zFxNf)@nE>HNvB}QLDfurI=K?rrjn83k8<A0vQXyY|PHg^g_(N#dgprg1!9|{D("
    ),
    "matmul Q2_K": (
        "lB$A2lgAIjBNx#>)zF*52&db@s{bKEp$IR)oc?S-p7QfRwPZrT8F#`#H??`eyGtTKcSwf88e0FrrYT6lX_JXS^*x(G"
    ),
    "matmul Q3_K": (
        "%oNPRmTWge$FO3<2Z07dP@5RSTpgUlnZKAot5BB0E8JW{RO^etGk7V%WQGVrhC^9GVh=mQ+=FmH#TXAk`WdIeR<Osx"
    ),
    "matmul Q4_K": (
        "?*Qt<zIB+y$sQ5JkNm2{G#8*kL<{^wUSY07PkD30yZiyfqk?S15K!U6`9@MgJ_~I`&%?VzH7>$K#A!Cet;7k$NHSf)"
    ),
    "matmul Q5_K": (
        "Zd_hP#rqk>Tfj<0yuFgee7L?u;77?s%`AyTjkN&8AUprWlIrF|gIg`bFQ7-md#X!Bs+dtke%ypay3B0CiHEDi3s=U%"
    ),
    "matmul Q6_K": (
        "2L-J~kQ?p9_LSE}A_Wgd^3tM2d_jvviZeOIjevs0c=|R)NuNbS>v%Fn&YB3t{^-%d=J*;xxc#I=;1ip~Xn8P1t$nz`"
    ),
    "matmul IQ2_XXS": (
        ";MXa_mDTM-)zDo+O8>aS!QE{^dfb*mA~pfTFu{buhS}r7@Cgw@L|lSG%|%$klxDp_+o>MGxaC<wa4q4$(w9d-(AMg~"
    ),
    "matmul IQ2_XS": (
        "S&^y2P$_mp+IAkpdEl%<oi}Gg3H;K+E8FnGVcwa-=vBZ$v{;zJoWMpx5Rt<{b3c;7S;gc*l6v>R?6d<y7H|T=h!w#="
    ),
    "matmul IQ3_XXS": (
        "PV?79fqYRzUs?jhW~$Z0!R>298GpD$4>!d_binJtr$?*9o515kLs3w}#jjOE^F^ORQ_mklu<%&J?70g+4_$A<0X>mH"
    ),
    "matmul IQ1_S": (
        "n<uP52F{woU8?`T$%cnQHJwJmdkGH0V@RaH6Z`YPWswlUJgm?_(jZMi^%d(tcbkYnIYW`Z_I#$k=&riJ)#?sEZnj^*"
    ),
    "matmul IQ4_NL": (
        "oewxcWi?pCv;(_BM%pICmEyy~P!-?8PR0L0(31zliX0)rqXm`1Mv05U0m0tFtXUtzq|9Z(o1^hT>6PHXI0qL&M+^l+"
    ),
    "matmul IQ3_S": (
        "4C$D}_x<?8a-HGBL7y!|G5;RJ)yOPEkVlllIz@m(Ag}nrshbT$T4>BccF07-nx-{FP#k5#Qi_wpS68RPR2aX)+}7#B"
    ),
    "matmul IQ2_S": (
        "Rgad!*D<!j>p_LWlWO0?U5Z-6T>78F;Llk=4Ogzh5}uJl-i}|w95WU|G3<%L{I5I0u=Jh5JZ8W^kEjyD4>n#xyjF2R"
    ),
    "matmul IQ4_XS": (
        "I<OW-RfXt8$TWGy&Rm^EM<j_ww;z2)8-bogeoD~9(U!tPdTAg<Jo6vKC4MJFj?jighadMsPMp9(MkhDKG#rk^jb)U?"
    ),
    "matmul IQ1_M": (
        "`gHn16|1Vj2fGbIMhXK$Ozqr3xgsXP$vg1DOc@Zt9eD;qf9aLMI>D;I`z&0*lD0EI6vpg7sl!FU3wtF%-?4zeNN5ef"
    ),
    "matmul BF16": (
        ")MH}8LBd=@vh4CgF~7z?)nXRIW4vy`@vx)9p3mySs4fXY#KtW`cm+2?%JHYb=M#uOoVC5df8jAf`<K;0^3KS?DMTH?"
    ),
    "matmul TQ1_0": (
        "`Pz*?W-VpF#d37O1lS}&#t=+ErZ4Y5k&`ySes`6>jeR-45_J?l{3h<cV=l!%?hAarpQ+V7mon%+{l|bm!Ow#}dKFc_"
    ),
    "matmul TQ2_0": (
        "MTR>-p@8VVXW=cs-#F#J{Aw>ifQ-$*fnMG}-D|kNw|`ncNp>?o#r&5(IzLCijW0dFayNQE3@1syfSL}z)WMoQy%Cf@"
    ),
    "matmul MXFP4": (
        "loBOC+6v}CitnJn3@&>?nT?~sz$2+Z%P)XH=aWW2yB+SoG|(eJmP#1Ep2#r36RQirMkuU5%mUrNZ<b&`cLrj=ukuyB"
    ),
    "expert_matmul F32": (
        "Y1sfn4!&PPQl?Tv(u^0w{f)-K@`q|cKpF_a=D|=wtRXQ%`%tGqw(_Pys#D`Z>>w+_NsWX-iH$J9C$$(s2Pct1>(A;z"
    ),
    "expert_matmul F16": (
        "@XC$B^&62waj2@mB1E~u;r#N#m|NFE?GNNZ-;b=n*91F4GoPWsS>n|}4jHgOvj$^9_$G(I5K+CrkSH@jjqP2(BolYO"
    ),
    "expert_matmul Q4_0": (
        "GX2FsRF;TA0evb#t^ba}JSMI_Op6e~D&1Q@#}v0f3K;;v#;YU1N`+Lv5x)z+5;(cPh&LX<jCKk@5Mlzp;7<%db(xyJ"
    ),
    "expert_matmul Q4_1": (
        "HfS`$-wr@Rn*vxu1eKRU3u79=&A}Hz6(6xbf(sWxz#(YA1_@<A2PTI<Y`^?Kd;fqy)O6;*EzA}`JB$**m~kAx=aHzt"
    ),
    "expert_matmul Q5_0": (
        "hR}Gy*^~pqW&N8!_=5w&2?-Ly<&rMJZ@e(SvU=4&M(>tBx0xEjkN#vqjbdQIr4cc}<c(ZE;{{m1`(kv!Z=MrC`hdAV"
    ),
    "expert_matmul Q5_1": (
        "fCdc1=I8A}5i_MigxGCDV5)dR`=SIxb_;<(wQU_jo@}5$SCG>|Z5-%63ed2?fL$2DnqO8xH8mMO4-cBa(wa)Z3O`^$"
    ),
    "expert_matmul Q8_0": (
        "!<;C?#3q8m%IBLv#2!w=FYorkt)>jab6?d$&df7HF>)e8J>D|H1|$$cKVZH=wAk3efS}qxQrww9)K>;U%Vu{$iaX#x"
    ),
    "expert_matmul Q2_K": (
        "7D-ydXM!z4#&D3pMRP<#j;Kb$QK$eynWj=eM1iG2nu>nG*LQ)xU$zxNm!dR40B>JD2CuZhFuonWIMltqC{{{9wh%SI"
    ),
    "expert_matmul Q3_K": (
        "+W(9}HhBU=-hG|Gi`sC(5VfyCvlui&$NrGPFlz-uy+VpYdiAeBNhQibQPc%OP%V!@+!k&?epZLUUEZ)kWayJYQn6gW"
    ),
    "expert_matmul Q4_K": (
        "ADJA)Fuo#0Se{En(s9#79{#;U$D*r5EDLeN-V+Z*$cw4MV=^#A3}miC3HTsGXlvg>UcH$?hD0C2WtNn}fFW(dyh0Dc"
    ),
    "expert_matmul Q5_K": (
        ";vCDw6WmZl>rg&LzY^+1Y?zqDy=U1%5NQO%@n1wlQSp_-PsK1qTaV>Kngvfp?E#QOjAaQxL#V35OiQgp-bdEMDwL_i"
    ),
    "expert_matmul Q6_K": (
        "v=$phN3jk=aq<YpqG&-yqKsihS^(WdD@+hXZ+VnNGJ(Lv+<t?>-4}L5mQI6265XQ1;{ygnEGrm8IBIG_IL0f&)=6bV"
    ),
    "expert_matmul IQ2_XXS": (
        "Q>?|pV9!;-BWd_T!Nh<<u)#aR?xe3m207S5LH1L^p{WGIctU_eDz(1BxO1bwo0<DTiiiwCJ28$yJ%`>vyKkUDpBiPs"
    ),
    "expert_matmul IQ2_XS": (
        "2+Z3;*7Q-sG2kx3EZ2lUN*Y?i5~+7WWe+yMV!MjM$>^~^-lU<yvk8>K(iu%c9%XO9LWqJv_{4?5ZfBN2U`|}VxPlu&"
    ),
    "expert_matmul IQ3_XXS": (
        "$s97nD+HLsabKcC+V=v%sXh?IFg^c5Cf2UPSD0%;F5J1o4X#GQ4@09uZMw$6A&H~H)`{0b$g2du4Sp5EY6llVVsYg`"
    ),
    "expert_matmul IQ1_S": (
        "S~d_u!-*)t&{6}z&9M_fo|dUVa%rN$x3ZhS_6$)!<Wtl@h{6xShi=cm<YFJbmSQ77Ed=nsHMn8G>zQ{zjA1^%sFRaE"
    ),
    "expert_matmul IQ4_NL": (
        "EVG(I7K(>M)rllS{xgch{d77%J182%zS~+sI(4T)uRsvOCd(VbW=c}P`HN1$)?%N*Y+)0^@{0LEy4yg%naBY`G8u`$"
    ),
    "expert_matmul IQ3_S": (
        "<MgV-r1Sm5bk_twBP<iZ#=(}tZzGsPDX{jz&TZF1Ga+WfJH}r_GQCVg(MQEX;WHFM?HFajYA8{{_!lukcwL3UZ996x"
    ),
    "expert_matmul IQ2_S": (
        "eQtxozy15dyX|GeXV+B2bs*V7fgA<HU8BQ6#rA~2%vW^6Gb1{}BbK(p_p=ScG~~{{GuPul{A{g3E~5ItAyM@|oxw9g"
    ),
    "expert_matmul IQ4_XS": (
        "Q_&Sg!eP}z?_(21D*Jy!=2go?xADD2LQg@&$uPV_MWl&Ceh)3gw76G9T)?5ka~rro7VMD2Ujr4xLY2rv*!;ai363Ac"
    ),
    "expert_matmul IQ1_M": (
        "#kVa%ITJd-d7v;sH6Mt<8~ZClQ5k^2uG@~lc^KKhw12cf)X335AisLRMErU`(qNmwUVCG|5z(|iAl6sEh38#BU5pAq"
    ),
    "expert_matmul BF16": (
        "c3=QQT(e$6Di=~i9y}Mrg}%hWF+grXo2LcAf{;%^U8pcZyI`k4er2XX<N)G95)CWC;a!A5dy+800}vTOJ<pIqz&7eZ"
    ),
    "expert_matmul TQ1_0": (
        "6fp-tVIdB{n^HhPcL}*as^f~jVy9a``h$kQZfmK(#c1QcjfLwz!)Oq|qv7g4lWG<|2l=+W(n|L{+79wQ_LS5<pk={6"
    ),
    "expert_matmul TQ2_0": (
        "AoQ<5*M6PAMz@|oMuRRu(p+pnCUP1;B3@oS>aM82<ulknkpF<au-?+Xo#YHaS%>DmKOB5L%ne*VpU<eikQ5I;({=Pd"
    ),
    "expert_matmul MXFP4": (
        "xDExuOZ_B3q{@Xrv_lBLt8l}>9!hUOptI$^o=<4N_H6gR{z3!5&pm*@xf^4^(j*ALh5a|ayq0pmCS<WZ%?+TwkQ5j{"
    ),
    "rms_norm": (
        "eAZ;b0DGLjXCMkgo+evDM)wgys%8U1$cG0(dGgo6CanfSEGd`3LKmk$8tclyBy(jzL$(^hTz-kaK74+_d1ti1KsD09"
    ),
    "layer_norm": (
        "yRCb|<y}|7NdP`W4~(q8Tuov^4hb+r3{iGMejQ)JpbFGM+=&rD9oV(O%yaKQdMzcup+*)#B;6%Jii2uFt-h{6tQ*e2"
    ),
    "softmax": (
        "4qlnP5;o_(38;QP{@Izn30KNK&L7&oQ%nKAz5a;32Gn1@tifwN<n05#cO3^kOmJmAn*K7oB(5;Kjj@ouKmX*t6~0Nn"
    ),
    "add": (
        "{y$Vg_z<2!DRZ4d$1YF967!KknovAKPOwixH}(+1+<Sb&0a&!a{AP>5D+AlX%i_C0)t-|<e0BgqE>RJ|P29IXz2pGG"
    ),
    "mul": (
        "{8dpvrz;D>y(tPphGEXZ*(3D8K{yS-u%H=1#gF+xu?BrXFqSUBuuQ)|;O5IeqNE+cTvHA}EKW1Pq5`GBP*iEai`0|B"
    ),
    "div": (
        "n!0>JsOTTTEv1@4@&%H?(7k~{@^JOQFf6G+8Aa2-YuZ%7n6I(Gd4gQO>r<D&#jkfjEf9x5BF6+k?d!n5?FJRUz;k@S"
    ),
    "swiglu": (
        "l#Db$(~yh7f$>*CHL}maB8Sz$35>u$vJMtOR2(uv4-%t50U`rGyXX!;#w)Hqb;P;A%RCQ1$Nhr8R*b#BIbz?x*JL5V"
    ),
    "causal_conv": (
        "WQTx34=kTThrwJz-C4-O524vY<hbWRYAZHEkWD5);b>dFo!?o(*}RcJThClTblDQY*xe;Rx270D#T{?Hz1a-F2a4)H"
    ),
    "rope pairs": (
        "i+MT15%R9V?sb^Ln;tDfR;40Buv}Nd^j_3KAdQzneI@@u*g?WTfK;(S+r1mXMj(j5oKx4p?^zW=RjNzBlXnh5fWkgM"
    ),
    "rope halves": (
        "!mR8;DQ8$h<CKTO2{D609Shq*F(PxqX5kw`5dXeFZ};iH;JL!U_x{U4C&r4wnZFJ|roE6r54USTNdCIOKO(!o->msS"
    ),
    "attention": (
        "M8O3@tm7fT<`uWVWd8`kB1Y}OTAqDCIA4Z9kYabgB)Wt_x=c(y&%D_{jmR9pPP+j>d$<8WD_I!8VKfxK_DX3#N@W^A"
    ),
    "rope_kv pairs": (
        "nqId-EBKv2kT4d)68GQ1A3Qw56RYz;FPP>(iXjldy>`+-*wA`Fj}ZmHyx5mO)&HG834@J4>TB=5>9oGT)(79e$Wa5p"
    ),
    "rope_kv halves": (
        "j#>Xf=#)9ZzNRU`Ok&2t9ckpj0c1KtEsh_+rBsx_J*;>@(YiXpaix4evs}VI;(UNW*FcWHUA;TN`j$e!^QQkl2H6t7"
    ),
    "expert_mul": (
        "Ody^=N=utQN|j~5o7RaxFBv<&N~rp~&&Y;8oFfvxju$OH6|TO$_9Z^OR$!1m72E~B_c}<v_c};E72E~B_c};E72E|r"
    ),
    "qkv": (
        "r$Lp*?8B?ZAze(xoBgmx^hTgX&%{W^!IPH8;Q<@Q?U6D@8Vt?E4>7z(Wx<6-^fTPV?QG4(sQL#+_f2g@saXxi>WT}+"
    ),
    "gate_up": (
        "I<C>hs1UM5N-l@QYaxh4E3U3ZBLXu-CmmJ9o2Gigz+am{@b@r8>3UT|Z=yiNVh*druK+y5=&rOv*nAPgmBuH-m?CLI"
    ),
    "matmul_add": (
        "v}^=IJJh(t=#J|{sMCl;fe&%Q6D8zAg<Rf3%mxC(J<65CvFF#pGc&xyXMB}HK>C?MnHrQrilMf_+~0IUEH}tNiaUTp"
    ),
    "unary scale": (
        ")F?|sZyPqlRBo3;V!VpO@AyYU?bpr1qL`~fkW9Zp=Z_A<7dxE7yn3*}z;STGOQ{D!AfIVMW%jv2_rBP{B1tyExbUCC"
    ),
    "unary softcap": (
        "ym?GQul?h}!z30#{ptn6As+-mU7Cf#R%f_Dl*1W8ZDydsF|kd-i$YRBO}9J22{A%I1T)$|CyydPy*Dzzx7t&`(cd<~"
    ),
    "unary clamp": (
        "5zH_`2l5NT(yAQ5S3L*9i5){hR=&2uzvPEOZz_O5L8^|yDZA;w#R}ZKDBc3Wvcr2o(-n(AuOI?HtX)jNUy+%>SAuoH"
    ),
    "unary gelu": (
        "nfV4lb>v#YX->XE4w>V^IMdofDGc($1o^f>faZL_v}O~+N0gDju-MAM3NDa6eRz;TY$mWl*|FO|o-|v*^H}=9o<>N*"
    ),
    "unary gelu_erf": (
        "YQhFUMg3aBNjbhky_n;|w#nK;9tQHlJMp$bDd2p-4Qdm@sD_fiCCkde%;k?gDRz)SZx*mY8;aXNhdo=t%vAcp`$tH^"
    ),
    "unary gelu_quick": (
        "Z?8N+T{T<6DBiw8y{_TH2Z`B255MlhLZ`JsKX`D!?@<)OZKcn@k?qF8b(Mj>RacNfAfB&5??v7~ce+}^jr{h(DWFHf"
    ),
    "unary silu": (
        "YH~tBo%=q*QHs(+oVe1$`J~Q5UIf&_C3ww2@11}?M8y`u_dB`3=k}(-tRQi~rqPH&Bsjc5nc4|Kr%gq{eJIhvRa-Q|"
    ),
    "unary relu": (
        "ew_e7)bVh_{|LH5Tkzt-qUzs5!m;qe*mG(@X$bhhBoY_GBx_$jAbs4y39v&yB$<;zv5K5Q<OZ=ox2kW!%<cig8Z}qK"
    ),
    "unary relu2": (
        "ZkL3@YG0DV`u4Cx>^XJAQ!}<hPw0xnB5gZDWBF6TA%CpG1#AgG6mMk0Jw;(aNbXNU<&BL(7B}-j<8If%F87DR?v38U"
    ),
    "unary sigmoid": (
        "r%=a0Bp{H%b=lKFwf7&w_+=?V6k<)nxB`p8g!Jve5x^6{mra2{^0$M*s_Pv<ebCE5*R>+R)D^eCK&K_aC-+#vHAB?F"
    ),
    "unary softplus": (
        "+J0w1i;_0ND)`DmR4&}Yj1&AqxmN<irN2tS$B9G1`2hXF7LlJoqmv85`7BXD8wZ#{V;&+wqPbW=Qs1M&OSJ{UEIM<-"
    ),
    "unary tanh": (
        "ERmx^(_v4-n&3-9fw+vq=M$_!{BQQb919RazL0@I@JJlO?t#j|L*vLl5+kL-IaAm`Hd$>!xsAO*U)1)%hxkUoCvLgH"
    ),
    "unary exp": (
        "qDdjc;&hb4v<@>wQjp8TnNCJTvCIa<uO^T}C>oBzYRV_W=<WMJT13afOIt2LZ0^-UsImt`+UkfxT!L7_SBdq)L7!*C"
    ),
    "unary xielu": (
        "7;hHB@?Mp~GlG#r;gDa$3{93paZ7*0_A5g|X6xs`OSGKAPed}mKnhL5Fq(5em{v1F;PG@qnCr_y09DJuipzV#g|yAW"
    ),
    "norms of groups": (
        "fq8zyxH^SGTZFhlX}NvE9d>p?t2y67C<47fasfcX`L}e!&!*Qw_R79M@rj#2o;R024Rw`4{#H9cdT)Y3CVzoJz*s3j"
    ),
    "geglu": (
        "@y=dA^pA<bU{5$f6WRm9%}oHozrHp=51czef=&%VWkzX0`yaADD1qlcBQmHxmp913YcicavUOa)><4+jH3;9okUc2D"
    ),
    "swiglu_oai": (
        "|I2(q8k3~K))l@%3u`~Zn9xH(l_zPzdFEh2uXO`KRxA<0_td7q*fkiyCD%Z}I#GeYriPk8@}I{(YZ{8c?xxhh-o<>u"
    ),
    "gate_up geglu": (
        "a)}MauGH4V*NzuOs<;TnC?F0*V=HRK!MfK&LC-A2il(bW;M8cs?yNh*w42vM`ryn%js}Q94(F`H^WyzOaV@jL9>cK1"
    ),
    "columns": (
        "{M)lZ&HgaLKHyG4cByZ_uD-TF){rm4X7Dn?)22PazSn@k*?<<nKS}^WJNy~Jx2)N}o<wTER_;5%MbUmh|4RZuP?pL+"
    ),
    "concat": (
        "q@1%t-(ShXOCrHS98m1P#8DAKTVjYpyaZ%HQ*jYOnlmE7o+w*D6L$c@{s|RA7Xc>08-^Z1OIi>>%?+Brt884rYHR+$"
    ),
    "add_position": (
        "{y$Vg_z<2!DRZ4d$1YF967!KknovAKPOwixH}(+1+<Sb&0a&!a{AP>5D+AlX%i_C0)t-|<e0BgqE>RJ|P29IXz2pGG"
    ),
    "temper": (
        "mGinn6pj?aJj3xqAU4CoQD}rhci;lT?$Q)OOHn03kWYBRpp^r{2wug%m!r+W6zXk30^7_%k`N<7%nm-mG}oWNCqE3r"
    ),
    "head_matmul": (
        "K87*FUjG6@J<^>+@M!!(qf(Q@c<l{Dy!X4qR*Hr~Dt3QD6!nop5(p;3TrqP)RzjM>Z;?mB=u?M6;3$N`y>7)qFDWd-"
    ),
    "attention of some keys": (
        "I#Cru{~_H$-kSnJ6624*|H)axo+KZ_@PxHK5*eAlGf^l(dZnsCMUhrO1m4!bO0Z}^{<*Zk#89We71uGr!>)%vlxUMc"
    ),
    "attention of large heads": (
        "Wj7eZA2rlMreP;S9BI|Tr<y>)*t&v1u@kAlfT6;`@Jt^-5A;C6T}vZDxUPY{o40Mic?@#Et^0+)Yu9zaetA+qPn`Ha"
    ),
    "routes": (
        "^t|rAa0SG{f25AVHGyiuF={TtL-p&yfgx<c*-Qt(B9j8a-*$n&6BJiLrj9PaS=ubWVZw62LKQqem=K!3;%S9H1uK=m"
    ),
    "experts": (
        "_6D{;xUBC%0tCoHVD8PqH=|y{7IhrLJ@6?)uds7KQ&=*=9%rpUr6v|YbdS=(7=^n*`)9^M&V(vKVW9TGlt=KtK?x|q"
    ),
    "ssm_scan": (
        "GX(!Z?Kn@ugW&<f=$sWovqX@=(#wlNF!7PR_{haR<fXAdu)O}ja;Dk9@1JGCNh3kQV+g*$n-liHxn$44yhKz%y=ig4"
    ),
    "delta_net": (
        "fZzi`$}8@`9k;tcAeY!b=S_t`Zl<6?lj4QIVy^{3Q@a<yV9#H`@_MnrgWh34$p_v)`zRd1St1$03WT^m`X-Y<NYlf="
    ),
}
